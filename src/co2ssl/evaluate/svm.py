"""VOC07 classification: one linear SVM per class on frozen features.

Source: Goyal et al. (2019), whose set-up the paper takes over (as recalled from the paper, unverified). The recipe and
its constants are quoted from published code, where they were seen: vissl [09270ed2] and
fair_self_supervision_benchmark for the cross-validated form, PCL [964da1f] for the one with a fixed cost.

Two things that cannot happen with VOC07 itself, and do with smaller data:

* A class that no image of the test set shows has no average precision. The VOC devkit's program gives it 0, by
  comparing with 0/0, and a perfect ranking would then have a mean below 1. Here it is left out of the mean, and
  ``left_out`` says so.
* A class that the training set shows once cannot be cross-validated. It takes the cost that is best for the others on
  average, and ``borrowed`` says so. (The published code ends up with the first cost of its list.)
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from co2ssl.errors import UsageError
from co2ssl.evaluate.average_precision import area_ap, eleven_point_ap
from co2ssl.evaluate.features import Features
from co2ssl.evaluate.progress import Progress
from co2ssl.evaluate.svm_problem import Difficult, Problem, enough_for_folds, problem
from co2ssl.evaluate.svm_search import Matrix, Signs, Solver, cross_validate, decide

VISSL_COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
"""The published range: seen in vissl (``eval_resnet_8gpu_transfer_voc07_svm.yaml``)."""

GOYAL_COSTS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""The original range, by decades: seen in the README of fair_self_supervision_benchmark. Its code adds 0.5**4 to
0.5**19 to whatever range it is given (``svm_helper.py``); those are not here."""

PCL_COST = 0.5
"""The fixed cost of the second pipeline: seen in PCL (``eval_svm_voc.py``)."""

CLASS_WEIGHT = {1: 2.0, -1: 1.0}
"""Seen in vissl, fair_self_supervision_benchmark and PCL."""

FOLDS = 3
"""Seen in vissl and fair_self_supervision_benchmark (``cross_val_score(cv=3)``)."""


def svm(
    train: Features,
    train_targets: Signs,
    test: Features,
    test_targets: Signs,
    *,
    class_names: Sequence[str],
    costs: Sequence[float] = VISSL_COSTS,
    folds: int = FOLDS,
    class_weight: Mapping[int, float] = CLASS_WEIGHT,
    fixed_cost: float | None = None,
    difficult: Difficult = "left-out",
    seed: int = 0,
    jobs: int = 1,
    quiet: bool = True,
) -> dict[str, object]:
    """Mean average precision on ``test`` of one linear SVM per class, fitted to ``train``.

    Features are brought to unit length. Each class has the cost of its highest cross-validated average precision on
    ``train`` (scikit-learn's; of equals the first), and is then fitted to all of it; ``test`` is read once, at the
    end. The result does not depend on ``jobs``.

    Memory: each job holds about 24 bytes per feature value of ``train`` beyond the features, which are shared.

    Args:
        train: (N, F).
        train_targets: (N, C): 1 shows the class, -1 does not, 0 shows it in "difficult" objects only.
        test: (M, F).
        test_targets: (M, C), likewise.
        class_names: C of them.
        costs: the range to choose from, LinearSVC's C.
        folds: of the cross-validation: stratified, in the order of the images.
        class_weight: of the loss of images with (1) and without the class (-1).
        fixed_cost: the cost of every class, and no cross-validation; None chooses.
        difficult: what a target of 0 means.
        seed: of the order in which LIBLINEAR visits the images.
        jobs: processes; 1 stays in this one.
        quiet: no progress.

    Returns:
        A plain dict: ``protocol``, ``map_11point`` and ``map_area`` (shares from 0 to 1), ``classes`` (for each both
        average precisions, its cost, the cross-validated average precision of every cost or None, counts of positives,
        whether its fit converged), ``left_out`` (class to reason), ``cross_validation`` (how it was done, or None),
        settings, counts, names of the sources, ``seconds``.

    Raises:
        EvaluationError: nothing to measure with, features of two networks, a class of ``test`` that no image or every
            image of ``train`` shows, or no class with enough images to choose a cost.
        UsageError: a setting out of range.
        ValueError: targets that do not fit the features or the names, or hold anything but 1, 0 and -1.
    """
    started = time.perf_counter()
    _check_settings(costs if fixed_cost is None else [fixed_cost], folds, class_weight, difficult, jobs)
    given = problem(train, train_targets, test, test_targets, class_names=class_names, difficult=difficult)
    solver = Solver(class_weight=class_weight, seed=seed)
    if fixed_cost is None:
        choice = _choose(given, train.source, costs, folds=folds, solver=solver, jobs=jobs, quiet=quiet)
    else:
        choice = _Choice(costs=[fixed_cost] * len(given.names))
    values, converged = decide(given.known, given.fitted, given.unseen, costs=choice.costs, solver=solver, jobs=jobs)
    return {
        "protocol": "svm",
        **_measured(given, values, converged, choice),
        "left_out": given.left_out,
        "cross_validation": choice.summary,
        "class_weight": {str(sign): weight for sign, weight in class_weight.items()},
        "difficult": difficult,
        "seed": seed,
        "num_train": len(train),
        "num_val": len(test),
        "num_classes": len(given.names),
        "num_features": given.known.shape[1],
        "train": train.source,
        "val": test.source,
        "seconds": time.perf_counter() - started,
    }


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A cost for each class; for those that were cross-validated, what every cost had; and how it was done."""

    costs: list[float]
    tried: dict[str, dict[str, float]] = field(default_factory=dict)
    summary: dict[str, object] | None = None


def _choose(
    given: Problem,
    source: str,
    costs: Sequence[float],
    *,
    folds: int,
    solver: Solver,
    jobs: int,
    quiet: bool,
) -> _Choice:
    possible = enough_for_folds(given, folds, source)
    fits = int(possible.sum()) * len(costs) * folds
    with Progress("cost of the SVMs", total=fits, unit="fits", quiet=quiet) as shown:
        found = cross_validate(
            given.known,
            given.fitted[:, possible],
            costs=costs,
            folds=folds,
            solver=solver,
            jobs=jobs,
            advance=shown.advance,
        )
    able = [name for name, enough in zip(given.names, possible.tolist(), strict=True) if enough]
    own, common = dict(zip(able, found.choose(), strict=True)), found.choose_one()
    return _Choice(
        costs=[own.get(name, common) for name in given.names],
        tried={name: found.by_cost(place) for place, name in enumerate(able)},
        summary={
            "costs": list(costs),
            "folds": folds,
            "unconverged": found.unconverged,
            "borrowed": [name for name in given.names if name not in own],
        },
    )


def _measured(given: Problem, values: Matrix, converged: list[bool], choice: _Choice) -> dict[str, object]:
    """Both means, and what belongs to one class."""
    eleven_point, area = [], []
    classes: dict[str, dict[str, object]] = {}
    for place, name in enumerate(given.names):
        # What is left out of a class has no say in it, neither as a hit nor as a miss.
        counted = given.asked[:, place] != 0
        ranking = values[counted, place], given.asked[counted, place] > 0
        eleven_point.append(eleven_point_ap(*ranking))
        area.append(area_ap(*ranking))
        classes[name] = {
            "ap_11point": eleven_point[-1],
            "ap_area": area[-1],
            "cost": choice.costs[place],
            "cross_validated": choice.tried.get(name),
            "converged": converged[place],
            "positives_train": int((given.fitted[:, place] > 0).sum()),
            "positives_test": int((given.asked[:, place] > 0).sum()),
        }
    return {"map_11point": float(np.mean(eleven_point)), "map_area": float(np.mean(area)), "classes": classes}


def _check_settings(
    costs: Sequence[float], folds: int, class_weight: Mapping[int, float], difficult: str, jobs: int
) -> None:
    if len(costs) == 0:
        raise UsageError("there is no cost to choose from: give at least one")
    for cost in costs:
        if not 0 < cost < math.inf:
            raise UsageError(f"an SVM's cost is {cost}: it must be a number above 0")
    if folds < 2:
        raise UsageError(f"cross-validation with {folds} folds: it needs at least 2")
    if sorted(class_weight) != [-1, 1] or not all(0 < weight < math.inf for weight in class_weight.values()):
        raise UsageError(f"class_weight is {dict(class_weight)}: give a number above 0 for 1 and for -1")
    if difficult not in get_args(Difficult):
        near = difflib.get_close_matches(difficult, get_args(Difficult), n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(get_args(Difficult))}"
        raise UsageError(f"difficult is {difficult!r}; {hint}")
    if jobs < 1:
        raise UsageError(f"{jobs} jobs do nothing: give 1 (this process) or more")
