from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from co2ssl.evaluate.logistic import Directions, fit, main_directions


def correlated(num: int = 400, *, dim: int = 30, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Standardised features with a few strong common directions, as images and networks have them."""
    generator = torch.Generator().manual_seed(0)
    spread = 3.0 ** -torch.arange(dim, dtype=torch.float32)
    mixing = torch.randn(dim, dim, generator=generator)
    labels = torch.arange(num) % num_classes
    centres = torch.randn(num_classes, dim, generator=generator)
    images = ((centres[labels] + torch.randn(num, dim, generator=generator)) * (spread + 0.01)) @ mixing
    return (images - images.mean(0)) / images.std(0), labels


@pytest.mark.parametrize("penalty", [1.0, 0.03, 0.001])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_against_scikit_learn(penalty: float, num_classes: int) -> None:
    images, labels = correlated(num_classes=num_classes)
    # Two classes are one logit to scikit-learn, whose squared weights are twice those of the two that cancel.
    strength = 1 / (penalty * len(labels)) * (2 if num_classes == 2 else 1)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
    theirs.fit(images.double().numpy(), labels.numpy())
    ours = fit(images, labels, num_classes=num_classes, penalty=penalty, directions=main_directions(images))
    assert ours.converged
    assert ours.weights.shape == (num_classes, 30)
    probability = ours.logits(images).softmax(dim=1)
    np.testing.assert_allclose(probability, theirs.predict_proba(images.double().numpy()), atol=0.01)


def test_the_directions_change_the_way_and_not_the_end() -> None:
    images, labels = correlated()
    full = fit(images, labels, num_classes=4, penalty=0.01, directions=main_directions(images))
    few = fit(images, labels, num_classes=4, penalty=0.01, directions=main_directions(images, most=5))
    torch.testing.assert_close(few.logits(images), full.logits(images), rtol=0, atol=0.1)


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    images, labels = correlated()
    directions = main_directions(images)
    strong = fit(images, labels, num_classes=4, penalty=1.0, directions=directions)
    cold = fit(images, labels, num_classes=4, penalty=0.03, directions=directions)
    warm = fit(images, labels, num_classes=4, penalty=0.03, directions=directions, start=strong)
    torch.testing.assert_close(warm.logits(images), cold.logits(images), rtol=0, atol=0.05)
    assert not torch.allclose(strong.logits(images), cold.logits(images), atol=0.3)


def test_steps_are_told_and_go_where_they_go_untold() -> None:
    images, labels = correlated()
    directions = main_directions(images)
    steps: list[int] = []
    told = fit(images, labels, num_classes=4, penalty=0.01, directions=directions, on_step=steps.append)
    untold = fit(images, labels, num_classes=4, penalty=0.01, directions=directions)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 3
    assert torch.equal(told.weights, untold.weights)


def test_main_directions_are_principal_components() -> None:
    images, _ = correlated()
    variance = torch.linalg.eigvalsh(images.T @ images / len(images)).flip(0)
    found = main_directions(images)
    torch.testing.assert_close(found.variance, variance, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(30), rtol=0, atol=1e-4)
    few = main_directions(images, most=6)
    assert few.basis.shape == (30, 6)
    torch.testing.assert_close(few.variance[:3], variance[:3], rtol=0.05, atol=0)


def test_preconditioning_is_the_inverse_root_of_the_bound() -> None:
    images, _ = correlated()
    covariance = (images.T @ images / len(images)).double()
    values, vectors = torch.linalg.eigh(covariance)
    expected = torch.eye(30, dtype=torch.float64) @ vectors @ torch.diag((values / 2 + 0.1).rsqrt()) @ vectors.T
    found = main_directions(images).precondition(torch.eye(30), 0.1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_outside_the_directions_counts_as_the_weakest() -> None:
    directions = Directions(torch.eye(3)[:, :2], torch.tensor([8.0, 2.0]))
    found = directions.precondition(torch.eye(3), 0.0)
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.5, 1.0, 1.0])))
