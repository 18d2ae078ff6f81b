from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve
from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

from co2ssl.evaluate.average_precision import area_ap, eleven_point_ap, precision_recall


def ranking(
    seed: int, *, num: int = 200, share: float = 0.2, ties: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    positive = random.random(num) < share
    positive[0] = True
    scores = random.standard_normal(num) + positive
    return (np.round(scores) if ties else scores), positive


def points(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(positives found, images retrieved) at every threshold, counted one image at a time."""
    out = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = retrieved = 0
        for score, is_positive in zip(scores.tolist(), positive.tolist(), strict=True):
            if score >= threshold:
                retrieved += 1
                found += int(is_positive)
        out.append((found, retrieved))
    return out


def slow_eleven_point(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    total = sum(positive.tolist())
    mean = 0.0
    for tenth in range(11):
        reached = [found / retrieved for found, retrieved in points(scores, positive) if 10 * found >= tenth * total]
        mean += max(reached) / 11
    return mean


def slow_area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    curve = points(scores, positive)
    area, before = 0.0, 0
    for place, (found, _) in enumerate(curve):
        area += (found - before) * max(one / of for one, of in curve[place:])
        before = found
    return area / before


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_against_explicit_loops(seed: int, share: float, ties: bool) -> None:
    scores, positive = ranking(seed, share=share, ties=ties)
    found, retrieved = precision_recall(scores, positive)
    assert list(zip(found.tolist(), retrieved.tolist(), strict=True)) == points(scores, positive)
    assert eleven_point_ap(scores, positive) == pytest.approx(slow_eleven_point(scores, positive), abs=1e-12)
    assert area_ap(scores, positive) == pytest.approx(slow_area(scores, positive), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed: int, ties: bool) -> None:
    scores, positive = ranking(seed, ties=ties)
    # Their average precision from our counts, ...
    found, retrieved = precision_recall(scores, positive)
    steps = float((np.diff(found, prepend=0) * found / retrieved).sum() / found[-1])
    theirs = average_precision_score(positive, scores)
    assert steps == pytest.approx(theirs, abs=1e-12)
    # ... and our area from their curve, made non-increasing. They list it from recall 1 to recall 0.
    precision, recall, _ = precision_recall_curve(positive, scores)
    best = np.maximum.accumulate(precision)
    assert area_ap(scores, positive) == pytest.approx(-float((np.diff(recall) * best[:-1]).sum()), abs=1e-12)
    assert area_ap(scores, positive) >= theirs


@pytest.mark.parametrize("seed", range(4))
def test_against_torchmetrics(seed: int) -> None:
    scores, positive = ranking(seed)
    # In 0..1 already, so that torchmetrics does not put a sigmoid (and its rounding) over them.
    inside = (scores - scores.min()) / (scores.max() - scores.min())
    given = torch.from_numpy(inside), torch.from_numpy(positive).long()
    precision, recall, _ = (part.double().numpy() for part in binary_precision_recall_curve(*given))
    best = np.maximum.accumulate(precision)
    assert area_ap(inside, positive) == pytest.approx(-float((np.diff(recall) * best[:-1]).sum()), abs=1e-6)
    assert area_ap(inside, positive) >= float(binary_average_precision(*given)) - 1e-6


def test_by_hand() -> None:
    # Ranked: + - + - -, so precision 1 up to a recall of 1/2 and 2/3 from there to 1.
    scores, positive = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False, False])
    assert area_ap(scores, positive) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert eleven_point_ap(scores, positive) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_perfect_and_the_worst_ranking() -> None:
    positive = np.arange(20) < 4
    ranked = -np.arange(20.0)
    assert eleven_point_ap(ranked, positive) == pytest.approx(1)
    assert area_ap(ranked, positive) == pytest.approx(1)
    assert area_ap(-ranked, positive) == pytest.approx(4 / 20)
    assert eleven_point_ap(-ranked, positive) == pytest.approx(4 / 20)


def test_a_recall_of_exactly_three_tenths_counts_for_three_tenths() -> None:
    # Ten positives: three first, then many negatives, then the rest. In floating point 3 * 0.1 > 3 / 10.
    positive = np.array([True] * 3 + [False] * 90 + [True] * 7)
    low = 10 / 100
    assert eleven_point_ap(-np.arange(100.0), positive) == pytest.approx((4 * 1 + 7 * low) / 11)


def test_the_order_of_equal_scores_does_not_matter() -> None:
    scores, positive = ranking(0, ties=True)
    turned = scores[::-1].copy(), positive[::-1].copy()
    assert eleven_point_ap(scores, positive) == eleven_point_ap(*turned)
    assert area_ap(scores, positive) == area_ap(*turned)
    # One score for all says nothing: the share of positives.
    assert area_ap(np.zeros(200), positive) == pytest.approx(positive.mean())


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        (np.zeros(3), np.zeros(3, dtype=bool), "without a positive"),
        (np.zeros(0), np.zeros(0, dtype=bool), "without a positive"),
        (np.array([0.0, np.nan]), np.array([True, False]), "NaN"),
        (np.zeros(3), np.ones(4, dtype=bool), "shape"),
        (np.zeros((3, 2)), np.ones((3, 2), dtype=bool), "shape"),
    ],
)
def test_what_cannot_be_ranked(scores: NDArray[np.float64], positive: NDArray[np.bool_], message: str) -> None:
    for measure in (eleven_point_ap, area_ap):
        with pytest.raises(ValueError, match=message):
            measure(scores, positive)
