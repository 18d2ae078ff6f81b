"""The linear SVMs of many classes, costs and folds, fitted side by side.

Worker processes import this module, so nothing here imports torch: that would cost each of them seconds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Signs = NDArray[np.int8]
Matrix = NDArray[np.float64]
Advance = Callable[[int], None]
"""Called with how many more fits are done."""

# Both seen in vissl (configs/config/benchmark/linear_image_classification/voc07, svm_trainer.py), in
# fair_self_supervision_benchmark (tools/svm/train_svm_kfold.py) and in PCL (eval_svm_voc.py).
TOLERANCE = 1e-4
MOST_ITERATIONS = 2000

# LIBLINEAR walks over its copy of the rows some hundred times a fit, and is the faster the fewer pages these lie on.
# The C library of Linux asks for large ones where it was started like this; others do not look at it.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


@dataclass(frozen=True, kw_only=True)
class Solver:
    """scikit-learn's LinearSVC (squared hinge, L2, dual) with what the costs share.

    Attributes:
        class_weight: weight of the loss of images that show the class (1) and of those that do not (-1).
        seed: of the order in which LIBLINEAR visits the images.
    """

    class_weight: Mapping[int, float]
    seed: int

    def fit(self, features: Matrix, signs: Signs, *, cost: float) -> LinearSVC:
        """Features (N, F), all finite, signs (N,) of 1 and -1.

        Running out of iterations is no error: see :func:`converged`.
        """
        machine = LinearSVC(
            C=cost,
            class_weight=dict(self.class_weight),
            penalty="l2",
            loss="squared_hinge",
            dual=True,
            tol=TOLERANCE,
            max_iter=MOST_ITERATIONS,
            intercept_scaling=1.0,
            random_state=self.seed,
        )
        # Whether all is finite was asked once, for all fits: it is a pass over the whole matrix.
        with warnings.catch_warnings(), sklearn.config_context(assume_finite=True):
            warnings.simplefilter("ignore", ConvergenceWarning)
            return machine.fit(features, signs)


def converged(machine: LinearSVC) -> bool:
    """Whether the tolerance was met before the iterations ran out."""
    return int(machine.n_iter_) < MOST_ITERATIONS


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossValidation:
    """What the choice of cost rests on.

    Attributes:
        costs: the range, in the order given.
        average_precision: (C, costs, folds), scikit-learn's; NaN for a fold without an image that shows the class.
        unconverged: fits that ran out of iterations.
    """

    costs: tuple[float, ...]
    average_precision: NDArray[np.float64]
    unconverged: int

    def choose(self) -> list[float]:
        """For each class the cost of the highest mean average precision over its folds; of equals the first."""
        return [self.costs[place] for place in self._mean().argmax(axis=1)]

    def by_cost(self, place: int) -> dict[str, float]:
        """Mean average precision over the folds at every cost, for the class at ``place``."""
        return {f"{cost:g}": mean for cost, mean in zip(self.costs, self._mean()[place].tolist(), strict=True)}

    def choose_one(self) -> float:
        """The cost that is best for all classes on average."""
        return self.costs[int(self._mean().mean(axis=0).argmax())]

    def _mean(self) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = np.nanmean(self.average_precision, axis=2)
        return mean


def cross_validate(
    features: Matrix,
    targets: Signs,
    *,
    costs: Sequence[float],
    folds: int,
    solver: Solver,
    jobs: int,
    advance: Advance | None = None,
) -> CrossValidation:
    """Average precision on each fold of a machine fitted to the others, for every class and cost.

    Folds are scikit-learn's stratified ones, in the order of the images and not shuffled, as ``cross_val_score``
    makes them in the published code.

    Args:
        features: (N, F), all finite, shared with the workers by memory map.
        targets: (N, C): 1 shows the class, -1 does not, 0 left out of it. Each class needs two of both signs.
        jobs: processes; 1 stays in this one.
        advance: called as fits get done, of which there are C times costs times folds.
    """
    split = [list(_folds(column, folds)) for column in targets.T]
    places = [
        (column, group, fold) for group in cost_groups(costs) for column in range(len(split)) for fold in range(folds)
    ]
    calls = (
        delayed(_fold_scores)(
            features, targets[:, column], *split[column][fold], [costs[cost] for cost in group], solver
        )
        for column, group, fold in places
    )
    scores = np.full((len(split), len(costs), folds), np.nan)
    unconverged = 0
    for (column, group, fold), made in zip(places, _side_by_side(calls, jobs), strict=True):
        for cost, (score, fine) in zip(group, made, strict=True):
            scores[column, cost, fold] = score
            unconverged += not fine
        if advance is not None:
            advance(len(group))
    return CrossValidation(costs=tuple(costs), average_precision=scores, unconverged=unconverged)


def cost_groups(costs: Sequence[float]) -> list[list[int]]:
    """Places of the costs that one worker fits after another on the same rows, in the order in which they are begun.

    Rows are copied once a group. The highest costs take longest and go first, in the largest group, each next one
    holds half of what is left: what is begun last is short, and nobody waits long for it at the end.
    """
    left = sorted(range(len(costs)), key=lambda place: -costs[place])
    groups = []
    while left:
        count = (len(left) + 1) // 2
        groups.append(left[:count])
        left = left[count:]
    return groups


def decide(
    features: Matrix,
    targets: Signs,
    unseen: Matrix,
    *,
    costs: Sequence[float],
    solver: Solver,
    jobs: int,
) -> tuple[Matrix, list[bool]]:
    """Each class's machine, fitted at its own cost to all the images that are not left out, and asked about others.

    Args:
        features: (N, F).
        targets: (N, C), as for :func:`cross_validate`.
        unseen: (M, F).
        costs: C of them.

    Returns:
        Decision values (M, C), and for each class whether its machine converged.
    """
    # The highest cost takes longest, and goes first.
    order = sorted(range(len(costs)), key=lambda place: -costs[place])
    calls = (delayed(_decision)(features, targets[:, place], unseen, costs[place], solver) for place in order)
    made = dict(zip(order, _side_by_side(calls, jobs), strict=True))
    classes = [made[place] for place in range(len(costs))]
    return np.stack([values for values, _ in classes], axis=1), [fine for _, fine in classes]


def _side_by_side(calls: Iterable[Any], jobs: int) -> Iterable[Any]:
    """Results in the order of the calls.

    Processes, not threads: LIBLINEAR draws from one random generator per process, so threads would disturb one
    another's order of visits, and no run would be like the one before. One BLAS thread each, so that the answer does
    not depend on how many there are.
    """
    with _environment(*LARGE_PAGES), threadpool_limits(1), parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=jobs, return_as="generator", mmap_mode="r", max_nbytes="1M")(calls)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """For processes that are started meanwhile; what the user has set stays."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _folds(signs: Signs, folds: int) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit and rows to ask about, of those that are not left out."""
    known = np.flatnonzero(signs)
    with warnings.catch_warnings():
        # A class of fewer images than folds: those that get none have no average precision, and no vote.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fitted, held_out in StratifiedKFold(folds).split(known, signs[known]):
            yield known[fitted], known[held_out]


def _fold_scores(
    features: Matrix,
    signs: Signs,
    fitted: NDArray[np.int64],
    held_out: NDArray[np.int64],
    costs: Sequence[float],
    solver: Solver,
) -> list[tuple[float, bool]]:
    """Average precision on the rows held out, and whether the fit converged, for each cost."""
    known, asked = features[fitted], features[held_out]
    positive = signs[held_out] > 0
    scores = []
    for cost in costs:
        machine = solver.fit(known, signs[fitted], cost=cost)
        score = float("nan")
        if positive.any():
            score = float(average_precision_score(positive, _ask(machine, asked)))
        scores.append((score, converged(machine)))
    return scores


def _decision(
    features: Matrix, signs: Signs, unseen: Matrix, cost: float, solver: Solver
) -> tuple[NDArray[np.float64], bool]:
    known = np.flatnonzero(signs)
    # Indexing copies; the whole is read where it is.
    rows = features if len(known) == len(signs) else features[known]
    machine = solver.fit(rows, signs[known], cost=cost)
    return _ask(machine, unseen), converged(machine)


def _ask(machine: LinearSVC, rows: Matrix) -> NDArray[np.float64]:
    with sklearn.config_context(assume_finite=True):
        values: NDArray[np.float64] = machine.decision_function(rows)
    return values
