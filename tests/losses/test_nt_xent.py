"""NT-Xent against its definition."""

from __future__ import annotations

import pytest
import torch

from co2ssl.losses import contrastive_loss, nt_xent, pair_contrast
from tests.losses.cases import unit


def test_it_is_the_papers_equation() -> None:
    first, second = unit(5, 4, seed=1).requires_grad_(), unit(5, 4, seed=2).requires_grad_()
    embeddings = torch.cat([first, second])
    logits = embeddings @ embeddings.T / 0.3
    losses = []
    for row in range(10):
        others = [logits[row, column] for column in range(10) if column != row]
        losses.append(-logits[row, (row + 5) % 10] + torch.stack(others).logsumexp(0))
    expected = torch.stack(losses).mean()
    loss = nt_xent(first, second, temperature=0.3)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [first, second]), torch.autograd.grad(expected, [first, second]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_vectors_of_any_length_on_request() -> None:
    first, second = unit(5, 4, seed=1), unit(5, 4, seed=2)
    scaled = nt_xent(first * 3, second / 2, temperature=0.3, normalise=True)
    torch.testing.assert_close(scaled, nt_xent(first, second, temperature=0.3))


@pytest.mark.parametrize("normalise", [True, False])
def test_a_nan_gives_a_nan(normalise: bool) -> None:
    first, second = unit(5, 4, seed=1), unit(5, 4, seed=2)
    first[2, 1] = torch.nan
    assert nt_xent(first, second, temperature=0.3, normalise=normalise).isnan()
    contrast = pair_contrast(first, second, normalise=normalise)
    loss = contrastive_loss(contrast, temperature=0.3, consistency_weight=1)
    assert loss.total.isnan()
    assert loss.consistency.isnan()


def test_shapes_and_a_single_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        pair_contrast(unit(5, 4, seed=1), unit(4, 4, seed=1))
    with pytest.raises(ValueError, match="no negative"):
        nt_xent(unit(1, 4, seed=1), unit(1, 4, seed=2), temperature=0.3)
