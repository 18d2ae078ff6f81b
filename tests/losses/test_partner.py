"""SimCLR's pairs: P of a row is Q of its partner, recognised and not computed twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from co2ssl.losses import Contrast, contrastive_loss, rows
from co2ssl.losses.engine import prepare
from tests.losses.cases import simclr, tiny_blocks, unit
from tests.reference import loop_terms


def from_embeddings(embeddings: Tensor, *, told: bool, detach: bool = False) -> Contrast:
    first, second = embeddings.chunk(2)
    image = torch.arange(len(first)).repeat(2)
    positive = torch.cat([second, first])
    return Contrast(
        query=embeddings,
        positive=positive.detach() if detach else positive,
        negatives=embeddings,
        row_id=image,
        negative_id=image,
        partner=torch.arange(len(embeddings)).roll(len(first)) if told else None,
    )


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("detach_positive", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("told", [True, False])
def test_embeddings_get_the_gradient_of_the_loops(
    told: bool, reduction: str, detach_positive: bool, detach: bool
) -> None:
    """Gradient through query, positive and negatives at once, as one tensor of embeddings gets it."""
    ours, loops = (unit(10, 5, seed=1).requires_grad_() for _ in range(2))
    weight = (
        torch.linspace(0.5, 2, 10, dtype=torch.float64) if reduction == "none" else torch.ones((), dtype=torch.float64)
    )
    with tiny_blocks():
        loss = contrastive_loss(
            from_embeddings(ours, told=told, detach=detach),
            temperature=0.2,
            consistency_weight=3,
            consistency_temperature=0.1,
            detach_positive=detach_positive,
            reduction=reduction,  # type: ignore[arg-type]
        )
        (gradient,) = torch.autograd.grad((loss.total * weight).sum(), ours)
    terms = loop_terms(
        from_embeddings(loops, told=False, detach=detach),
        temperature=0.2,
        consistency_temperature=0.1,
        detach_positive=detach_positive,
    )
    total = terms.instance + 3 * terms.consistency
    total = total.mean() if reduction == "mean" else (total * weight).sum()
    torch.testing.assert_close((loss.total * weight).sum(), total)
    torch.testing.assert_close(gradient, torch.autograd.grad(total, loops)[0])


@pytest.mark.parametrize("told", [True, False])
def test_only_the_queries_are_scored(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    products = rows._products

    def counted(vectors: Tensor, table: Tensor) -> Tensor:
        scored.append(vectors.shape[1])
        return products(vectors, table)

    monkeypatch.setattr(rows, "_products", counted)
    contrastive_loss(from_embeddings(unit(10, 5, seed=1), told=told), temperature=0.2, consistency_weight=3)
    assert set(scored) == {1}


def test_pairs_are_found_only_where_they_are() -> None:
    contrast = simclr()
    partner = prepare(contrast).partner
    assert partner is not None
    assert partner.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert contrast.row_id is not None
    others = [
        replace(contrast, positive=unit(8, 5, seed=2)),
        replace(contrast, row_id=torch.arange(8), negative_id=torch.arange(8)),
        replace(contrast, valid=torch.ones(8, 8, dtype=torch.bool)),
    ]
    assert [prepare(other).partner for other in others] == [None, None, None]


@pytest.mark.parametrize("told", [True, False])
def test_embeddings_that_have_diverged_are_no_wrong_partners(told: bool) -> None:
    embeddings = unit(10, 5, seed=1)
    embeddings[3, 2] = torch.nan
    contrast = from_embeddings(embeddings.requires_grad_(), told=told)
    loss = contrastive_loss(contrast, temperature=0.2, consistency_weight=3)
    assert loss.total.isnan()
    assert float(loss.top1) == 0
    assert torch.autograd.grad(loss.total, embeddings)[0].isnan().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partner": torch.arange(8)}, "no row is its own partner"),
        ({"partner": torch.arange(8).roll(1)}, r"partner\[partner"),
        ({"partner": torch.arange(8).roll(4), "positive": unit(8, 5, seed=2)}, r"query\[partner\]"),
        ({"partner": torch.arange(8).roll(4), "row_id": torch.arange(8)}, "row_id differs"),
    ],
)
def test_a_wrong_partner_is_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(replace(simclr(), **change), temperature=0.2, consistency_weight=1)  # type: ignore[arg-type]
