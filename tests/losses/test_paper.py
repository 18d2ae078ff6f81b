"""What the paper says of the consistency term, and what must hold for the baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from co2ssl.losses import Contrast, consistency, contrastive_loss, info_nce
from co2ssl.losses.engine import Implementation
from tests.losses.cases import CASES, leaves, tiny_blocks, unit

IMPLEMENTATIONS = ["reference", "blocked"]


def textbook(query: Tensor, positive: Tensor, negatives: Tensor, warm: float, cool: float, alpha: float) -> Tensor:
    """InfoNCE and the symmetric divergence as a few lines of PyTorch."""
    logits = query @ negatives.T
    pair = (query * positive).sum(1, keepdim=True)
    instance = F.cross_entropy(torch.cat([pair, logits], 1) / warm, torch.zeros(len(query), dtype=torch.int64))
    log_q = F.log_softmax(logits / cool, 1)
    log_p = F.log_softmax(positive @ negatives.T / cool, 1)
    forward = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    reverse = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return instance + alpha / 2 * (forward + reverse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_is_the_published_loss(implementation: Implementation) -> None:
    contrast, (query,) = leaves(CASES["table"](), negatives=False, positive=False)
    expected = textbook(query, contrast.positive, contrast.negatives, 0.07, 0.04, 10.0)
    with tiny_blocks():
        loss = contrastive_loss(
            contrast,
            temperature=0.07,
            consistency_weight=10,
            consistency_temperature=0.04,
            implementation=implementation,
        )
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, query)[0] for one in (loss.total, expected)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_sum_runs_over_negatives_and_the_mean_over_rows(implementation: Implementation) -> None:
    """Twice the rows leave the term as it is; the same negatives listed twice too (a mean over K would halve it)."""
    contrast = CASES["table"]()
    once = consistency(contrast, temperature=0.1, implementation=implementation)
    rows_twice = replace(contrast, query=contrast.query.repeat(2, 1), positive=contrast.positive.repeat(2, 1))
    negatives_twice = replace(contrast, negatives=contrast.negatives.repeat(2, 1))
    for changed in (rows_twice, negatives_twice):
        torch.testing.assert_close(consistency(changed, temperature=0.1, implementation=implementation), once)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("monitor", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_without_the_term_it_is_the_baseline_bit_for_bit(
    case: str, monitor: bool, implementation: Implementation
) -> None:
    single = {name: getattr(CASES[case](), name).float() for name in ("query", "positive", "negatives")}
    contrast, vectors = leaves(replace(CASES[case](), **single))
    with tiny_blocks():
        baseline = info_nce(contrast, temperature=0.07, implementation=implementation)
        loss = contrastive_loss(
            contrast,
            temperature=0.07,
            consistency_weight=0,
            monitor_consistency=monitor,
            implementation=implementation,
        )
        gradients = torch.autograd.grad(loss.total, vectors)
        expected = torch.autograd.grad(baseline, vectors)
    assert torch.equal(loss.total, baseline)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))
    assert not loss.consistency.requires_grad
    assert bool(loss.consistency > 0) if monitor else bool(loss.consistency.isnan())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", ["symmetric", "forward", "reverse"])
def test_zero_where_query_and_positive_are_the_same(direction: str, implementation: Implementation) -> None:
    contrast = CASES["table_with_ids"]()
    same, (query,) = leaves(replace(contrast, positive=contrast.query), negatives=False, positive=False)
    with tiny_blocks():
        value = consistency(same, temperature=0.05, direction=direction, implementation=implementation)  # type: ignore[arg-type]
    assert abs(float(value.detach())) < 1e-14
    assert float(torch.autograd.grad(value, query)[0].abs().max()) < 1e-13


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_indifferent_to_the_similarity_of_the_pair_itself(implementation: Implementation) -> None:
    """Query and positive move apart along a direction that no negative has: P and Q stay, InfoNCE does not."""
    flat = F.pad(unit(9, 4, seed=1), (0, 2))
    inside, angle = 0.6, 0.8
    values = []
    for turn in (0.0, 1.0, 3.0):
        query = torch.cat(
            [inside * unit(5, 4, seed=2), torch.tensor([[angle, 0.0]], dtype=torch.float64).expand(5, 2)], 1
        )
        off = torch.tensor([[angle * torch.cos(torch.tensor(turn)), angle * torch.sin(torch.tensor(turn))]])
        positive = torch.cat([inside * unit(5, 4, seed=3), off.double().expand(5, 2)], 1)
        contrast = Contrast(query=query, positive=positive, negatives=flat)
        with tiny_blocks():
            loss = contrastive_loss(contrast, temperature=0.1, consistency_weight=1, implementation=implementation)
        values.append((float(loss.consistency), float(loss.instance)))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-6)
    assert values[0][0] == pytest.approx(values[2][0], rel=1e-6)
    assert values[0][1] < values[1][1] - 0.1 < values[2][1] - 0.2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_term_alone_moves_an_encoders_weights(implementation: Implementation) -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(7, 5)
    images = torch.randn(6, 7)
    query = F.normalize(encoder(images), dim=1)
    contrast = Contrast(
        query=query,
        positive=unit(6, 5, seed=2, dtype=torch.float32),
        negatives=unit(11, 5, seed=3, dtype=torch.float32),
    )
    before = contrastive_loss(contrast, temperature=0.1, consistency_weight=1, implementation=implementation)
    baseline = info_nce(contrast, temperature=0.1, implementation=implementation)
    of_term = torch.autograd.grad(before.total - baseline, encoder.weight, retain_graph=True)[0]
    alone = torch.autograd.grad(consistency(contrast, temperature=0.04, implementation=implementation), encoder.weight)[
        0
    ]
    assert of_term.abs().max() > 1e-3
    torch.testing.assert_close(of_term, alone, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        encoder.weight -= 1e-3 * alone
    moved = replace(contrast, query=F.normalize(encoder(images), dim=1))
    assert consistency(moved, temperature=0.04, implementation=implementation) < before.consistency


def test_both_terms_see_one_set_of_negatives() -> None:
    """A negative that ids take out is in neither softmax: changing it changes nothing."""
    contrast = CASES["table_with_ids"]()
    nobody = torch.arange(6).clamp(max=5)
    contrast = replace(contrast, row_id=torch.zeros_like(nobody), negative_id=torch.tensor([0] + [1] * 10))
    other = contrast.negatives.clone()
    other[0] = unit(1, 5, seed=77)[0]
    first, second = (
        contrastive_loss(one, temperature=0.1, consistency_weight=5)
        for one in (contrast, replace(contrast, negatives=other))
    )
    assert torch.equal(first.total, second.total)
    assert torch.equal(first.top5, second.top5)
