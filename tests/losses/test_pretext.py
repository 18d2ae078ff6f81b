"""Semi-hard triplets against loops."""

from __future__ import annotations

import pytest
import torch

from co2ssl.losses import Prediction, Triplet
from co2ssl.losses.pretext import prediction_rows, triplet_rows
from tests.losses.cases import unit
from tests.reference import loop_semi_hard_triplet


@pytest.mark.parametrize("seed", range(5))
def test_semi_hard_triplet_is_that_of_the_loops(seed: int) -> None:
    identity = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    ours = unit(10, 3, seed=seed).requires_grad_()
    loops = ours.detach().clone().requires_grad_()
    rows = triplet_rows(Triplet(embeddings=ours, identity=identity, margin=0.5)).loss
    expected = loop_semi_hard_triplet(loops, identity, 0.5)
    torch.testing.assert_close(rows, expected)
    gradients = (torch.autograd.grad(one.sum(), of)[0] for one, of in ((rows, ours), (expected, loops)))
    torch.testing.assert_close(*gradients)


def test_where_no_negative_lies_beyond_the_positive_the_farthest_is_taken() -> None:
    embeddings = torch.tensor([[0.0, 0], [3, 0], [1, 0], [2.2, 0]], dtype=torch.float64)
    rows = triplet_rows(Triplet(embeddings=embeddings, identity=torch.tensor([0, 0, 1, 1]), margin=0.5))
    assert rows.loss[0] == pytest.approx(0.5 + 9 - 2.2**2)
    assert rows.top1.tolist() == [False, False, False, False]
    assert rows.top5.all()


@pytest.mark.parametrize("value", [1.0, torch.nan])
def test_of_a_collapsed_network_every_answer_is_a_miss(value: float) -> None:
    rows = prediction_rows(Prediction(logits=torch.full((3, 7), value), target=torch.tensor([0, 3, 6])))
    assert not rows.top1.any()
    assert not rows.top5.any()
    triplet = Triplet(embeddings=torch.full((4, 3), value), identity=torch.tensor([0, 0, 1, 1]))
    assert not triplet_rows(triplet).top1.any()


def test_a_row_without_a_positive_or_a_negative_is_refused() -> None:
    for identity in ([0, 0, 1], [0, 0, 0]):
        with pytest.raises(ValueError, match="needs another row of its identity"):
            triplet_rows(Triplet(embeddings=unit(3, 2, seed=0), identity=torch.tensor(identity)))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"target \(N,\)"):
        prediction_rows(Prediction(logits=torch.zeros(3, 4), target=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"identity \(N,\)"):
        triplet_rows(Triplet(embeddings=torch.zeros(3, 4), identity=torch.zeros(2, dtype=torch.int64)))
