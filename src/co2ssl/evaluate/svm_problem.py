"""What one SVM per class is fitted to and asked about: features of unit length, and signs of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from co2ssl.evaluate.features import EvaluationError, Features
from co2ssl.evaluate.svm_search import Matrix, Signs

Difficult = Literal["left-out", "negative-in-training", "negative"]
"""What becomes of an image that shows a class in "difficult" objects only: left out of that class; or as vissl and
fair_self_supervision_benchmark have it (seen), negative in training and left out of the test; or as PCL has it (seen),
negative in both."""

LENGTH_EPSILON = 1e-5
"""Added to a feature's length before it is divided by it; seen in vissl, fair_self_supervision_benchmark and PCL."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The classes that can be measured, and everything their machines read.

    Attributes:
        names: C classes.
        known: (N, F) training features of unit length.
        fitted: (N, C): 1 shows the class, -1 does not, 0 left out of it.
        unseen: (M, F) test features of unit length.
        asked: (M, C), likewise.
        left_out: classes that cannot be measured, each with the reason.
    """

    names: tuple[str, ...]
    known: Matrix
    fitted: Signs
    unseen: Matrix
    asked: Signs
    left_out: dict[str, str]


def problem(
    train: Features,
    train_targets: Signs,
    test: Features,
    test_targets: Signs,
    *,
    class_names: Sequence[str],
    difficult: Difficult,
) -> Problem:
    """Arguments and errors as for :func:`co2ssl.evaluate.svm.svm`."""
    for features, targets in ((train, train_targets), (test, test_targets)):
        _check(features, targets, class_names)
    if train.features.shape[1] != test.features.shape[1]:
        raise EvaluationError(
            f"{train.source} has {train.features.shape[1]} features an image and {test.source} has "
            f"{test.features.shape[1]}: they are not of the same network"
        )
    fitted = _signs(train_targets, negative=difficult != "left-out")
    asked = _signs(test_targets, negative=difficult == "negative")
    shown = np.any(asked > 0, axis=0)
    _check_known(fitted[:, shown], _named(class_names, shown), train.source, test.source)
    return Problem(
        names=_named(class_names, shown),
        known=unit_length(train),
        fitted=fitted[:, shown],
        unseen=unit_length(test),
        asked=asked[:, shown],
        left_out=dict.fromkeys(_named(class_names, ~shown), f"no image of {test.source} shows it"),
    )


def enough_for_folds(given: Problem, folds: int, source: str) -> NDArray[np.bool_]:
    """(C,): whether each class has the images that cross-validation takes.

    Raises:
        EvaluationError: none has.
    """
    counts = np.stack([(given.fitted > 0).sum(axis=0), (given.fitted < 0).sum(axis=0)])
    # Every part that is fitted needs an image of either sign, and scikit-learn wants one of either sign in each fold.
    enough: NDArray[np.bool_] = (counts.min(axis=0) >= 2) & (counts.max(axis=0) >= folds)
    if not enough.any():
        raise EvaluationError(
            f"{source} has too few images of every class to choose a cost by {folds}-fold cross-validation: "
            "give more images, or a fixed cost"
        )
    return enough


def unit_length(features: Features) -> Matrix:
    """(N, F) float64, each row divided by its length plus :data:`LENGTH_EPSILON`."""
    rows: Matrix = features.features.double().numpy()
    if not np.isfinite(rows).all():
        raise EvaluationError(f"features of {features.source} hold values that are not finite")
    unit: Matrix = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + LENGTH_EPSILON)
    return unit


def _check(features: Features, targets: Signs, class_names: Sequence[str]) -> None:
    if targets.shape != (len(features), len(class_names)):
        raise ValueError(
            f"targets of {features.source} have shape {targets.shape}; its {len(features)} images and "
            f"{len(class_names)} class names need {(len(features), len(class_names))}"
        )
    if not np.isin(targets, (-1, 0, 1)).all():
        raise ValueError(f"targets of {features.source} hold something other than 1, 0 and -1")
    if len(features) == 0:
        raise EvaluationError(f"{features.source} has no images to measure with")


def _check_known(fitted: Signs, names: tuple[str, ...], train: str, test: str) -> None:
    if not names:
        raise EvaluationError(f"no image of {test} shows any class, so there is nothing to measure")
    for sign, what in ((1, "no image that shows"), (-1, "no image that does not show")):
        without = _named(names, ~np.any(fitted == sign, axis=0))
        if without:
            raise EvaluationError(
                f"{train} has {what} {', '.join(map(repr, without))}, which {test} shows: "
                "add such images, or measure on a split without the class"
            )


def _signs(targets: Signs, *, negative: bool) -> Signs:
    """A target of 0 becomes -1 where it counts as negative."""
    return np.where((targets == 0) & negative, np.int8(-1), targets).astype(np.int8)


def _named(names: Sequence[str], which: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, which.tolist(), strict=True) if taken)
