"""The objective over comparisons: weights, counts, pretext methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from co2ssl.errors import UsageError
from co2ssl.losses import Objective, Prediction, Triplet, contrastive_loss, nce
from tests.losses.cases import CASES, leaves, unit, with_noise


def test_one_comparison_is_the_sum_over_its_rows() -> None:
    contrast, vectors = leaves(CASES["table_with_ids"]())
    sums = Objective(temperature=0.1, consistency_weight=2, consistency_temperature=0.2)([contrast])
    rows = contrastive_loss(
        contrast, temperature=0.1, consistency_weight=2, consistency_temperature=0.2, reduction="none"
    )
    assert sums.count == 6
    torch.testing.assert_close(sums.total, rows.total.sum())
    for name in ("instance", "consistency", "top1", "top5"):
        torch.testing.assert_close(getattr(sums, name), getattr(rows, name).sum())
        assert not getattr(sums, name).requires_grad
    gradients = torch.autograd.grad(sums.total, vectors)
    for gradient, expected in zip(gradients, torch.autograd.grad(rows.total.sum(), vectors), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_weight_zero_is_plain_info_nce_bit_for_bit_and_still_monitored() -> None:
    contrast, vectors = leaves(CASES["table"]())
    plain = Objective(temperature=0.1, monitor_consistency=False)([contrast])
    watched = Objective(temperature=0.1)([contrast])
    assert torch.equal(plain.total, watched.total)
    for one, other in zip(*(torch.autograd.grad(sums.total, vectors) for sums in (plain, watched)), strict=True):
        assert torch.equal(one, other)
    assert watched.consistency > 0
    assert plain.consistency.isnan()


def test_comparisons_add_up_by_weight_whatever_their_number_of_rows() -> None:
    """total / count is the weighted sum of means."""
    first = replace(CASES["table"](), weight=0.5)
    second = replace(CASES["simclr"](), weight=2.0)
    objective = Objective(temperature=0.1, consistency_weight=2, consistency_temperature=0.2)
    sums = objective([first, second])
    means = [
        contrastive_loss(one, temperature=0.1, consistency_weight=2, consistency_temperature=0.2)
        for one in (first, second)
    ]
    assert sums.count == 6
    for name in ("total", "instance", "consistency"):
        expected = 0.5 * getattr(means[0], name) + 2 * getattr(means[1], name)
        torch.testing.assert_close(getattr(sums, name) / sums.count, expected)
    torch.testing.assert_close(sums.top1 / sums.count, (means[0].top1 + means[1].top1) / 2)


def test_micro_batches_average_exactly() -> None:
    contrast = CASES["table_with_ids"]()
    objective = Objective(temperature=0.1, consistency_weight=2)
    whole = objective([contrast])
    assert contrast.row_id is not None
    parts = [
        objective(
            [
                replace(
                    contrast,
                    query=contrast.query[rows],
                    positive=contrast.positive[rows],
                    row_id=contrast.row_id[rows],
                )
            ]
        )
        for rows in (slice(0, 2), slice(2, 6))
    ]
    assert sum(part.count for part in parts) == whole.count
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)


def test_nce_with_the_term() -> None:
    contrast = with_noise(CASES["draws"]())
    sums = Objective(temperature=0.1, instance="nce", consistency_weight=2, consistency_temperature=0.2)([contrast])
    divergence = contrastive_loss(
        contrast, temperature=0.1, consistency_weight=1, consistency_temperature=0.2
    ).consistency
    expected = nce(contrast, temperature=0.1) + 2 * divergence
    torch.testing.assert_close(sums.total / sums.count, expected)
    torch.testing.assert_close(sums.instance / sums.count, nce(contrast, temperature=0.1))


def prediction() -> Prediction:
    logits = torch.tensor([[5.0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6], [0, 0, 3, 2, 1, 0, 0]])
    return Prediction(logits=logits.requires_grad_(), target=torch.tensor([0, 0, 3]))


def test_a_prediction_is_cross_entropy_with_its_accuracy() -> None:
    given = prediction()
    sums = Objective(temperature=0.1)([given])
    torch.testing.assert_close(
        sums.total, torch.nn.functional.cross_entropy(given.logits, given.target, reduction="sum")
    )
    assert sums.total.requires_grad
    assert (float(sums.top1), float(sums.top5), sums.count) == (1, 2, 3)


@pytest.mark.parametrize(
    "comparison",
    [prediction(), Triplet(embeddings=unit(4, 3, seed=1), identity=torch.tensor([0, 0, 1, 1]))],
    ids=["prediction", "triplet"],
)
def test_a_pretext_method_refuses_the_term_and_says_why(comparison: Prediction | Triplet) -> None:
    with pytest.raises(UsageError, match=r"pretext method has none"):
        Objective(temperature=0.1, consistency_weight=1)([comparison])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 0.1, "consistency_temperature": float("nan")}, "consistency_temperature"),
        ({"temperature": 0.1, "consistency_weight": -1}, "consistency_weight"),
        ({"temperature": 0.1, "direction": "backward"}, "direction"),
        ({"temperature": 0.1, "instance": "info-nce"}, "instance"),
        ({"temperature": 0.1, "implementation": "fast"}, "implementation"),
        ({"temperature": 0.1, "instance": "nce", "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-10.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused_in_the_same_words_everywhere(weight: float) -> None:
    said = []
    for refusing in (
        lambda: Objective(temperature=0.1, consistency_weight=weight),
        lambda: contrastive_loss(CASES["table"](), temperature=0.1, consistency_weight=weight),
    ):
        with pytest.raises(ValueError, match=rf"consistency_weight must be .*got {weight}") as caught:
            refusing()
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_no_comparison_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one comparison"):
        Objective(temperature=0.1)([])
