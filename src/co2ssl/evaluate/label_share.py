"""How a share of the labels is said: "1%". Needs no torch."""

from __future__ import annotations

from fractions import Fraction

from co2ssl.errors import UsageError

PUBLISHED = "simclr"
"""In the place of a path to a list of images: one of SimCLR's two, which are fetched and checked."""
DRAW = "draw"
"""In the same place: no list, a draw with a seed."""
DRAWS = 3
"""Trainings on a share of the labels whose mean is reported: of CO2, three (as recalled from the paper, unverified)."""


def share_of(labels: str) -> Fraction:
    """A share such as "1%" or "0.5%" as a number above 0, at most 1.

    Raises:
        UsageError: it is none.
    """
    try:
        share = Fraction(labels.strip().removesuffix("%")) / 100
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not (labels.strip().endswith("%") and 0 < share <= 1):
        raise UsageError(
            f"--labels {labels} is no share of the images: give 1%, 10%, or another above 0% and up to 100%"
        )
    return share
