"""Differences of paired runs, with Student's interval, and the word that PLAN.md gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HINT = 2.0
"""Points that the mean of differences of one sign must have to be called a hint."""
PAIRS = 3
"""That the plan's words are about; of fewer nothing is said."""


@dataclass(frozen=True)
class PairedDifference:
    """In points.

    Attributes:
        values: of each pair.
        mean: of them.
        low: lower end of the 95 % interval of the mean; None of a single pair.
        high: upper end.
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval does."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def hints(self) -> bool:
        """Whether all differences have one sign, and their mean is large enough."""
        one_sign = all(value > 0 for value in self.values) or all(value < 0 for value in self.values)
        return one_sign and abs(self.mean) >= HINT


def verdict(measures: Mapping[str, PairedDifference]) -> str:
    """The plan's word for the differences of one comparison, by measure."""
    if any(len(one.values) < PAIRS for one in measures.values()):
        return "too few pairs"
    outside = [one for one in measures.values() if one.leaves_out_zero]
    if len(outside) == len(measures) and len({one.mean > 0 for one in outside}) == 1:
        return f"an effect: it {'helps' if outside[0].mean > 0 else 'hurts'}"
    if outside:
        return "unclear: " + ", ".join(name for name, one in measures.items() if one.leaves_out_zero) + " alone"
    hints = [name for name, one in measures.items() if one.hints]
    return f"a hint ({', '.join(hints)})" if hints else "nothing"


def paired_difference(values: Sequence[float]) -> PairedDifference | None:
    """Mean and interval; None where there is no pair."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return PairedDifference(tuple(values), mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return PairedDifference(tuple(values), mean, mean - half, mean + half)
