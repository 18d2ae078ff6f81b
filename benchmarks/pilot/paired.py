"""Differences of paired runs, with Student's interval, and the word that PLAN.md gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HINT = 2.0
"""Points that the mean of differences of one sign must have to be called a hint."""


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
    def verdict(self) -> str:
        """What this measure alone says."""
        if self.low is None or self.high is None:
            return "one pair"
        if self.low > 0 or self.high < 0:
            return "leaves out zero"
        one_sign = all(value > 0 for value in self.values) or all(value < 0 for value in self.values)
        return "a hint" if one_sign and abs(self.mean) >= HINT else "nothing"


def paired_difference(values: Sequence[float]) -> PairedDifference | None:
    """Mean and interval; None where there is no pair."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return PairedDifference(tuple(values), mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return PairedDifference(tuple(values), mean, mean - half, mean + half)
