"""VOC07's SVMs over processes: beside the serial recipe, on features of VOC07's size.

    python -m benchmarks.evaluate.svm                # two classes, a rare and a common one; on an idle machine
    python -m benchmarks.evaluate.svm --classes 20 --repeats 1
    python -m benchmarks.evaluate.svm --quick        # small and few: whether it runs at all

Asked for: on two cores at least 1.7 times as fast as the serial recipe. That is scikit-learn in a plain loop, class by
class and cost by cost, and comes in two forms: ``published`` fits every cost to all images as well, as vissl and
fair_self_supervision_benchmark do; ``serial`` only the cost that was chosen, which is all that the result needs. The
second counts. Ours starts its processes anew in every repeat, as a command does.

Writes ``benchmarks/evaluate/svm.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from benchmarks.evaluate.surroundings import HERE, surroundings, write
from benchmarks.loss.measure import Timing
from co2ssl.evaluate.average_precision import area_ap
from co2ssl.evaluate.features import Features
from co2ssl.evaluate.svm import FOLDS, VISSL_COSTS, svm

TRAINVAL, TEST = 5011, 4952
Targets = NDArray[np.int8]
Found = list[tuple[float, float]]
"""Cost and area of every class."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the images and of the width, one repeat")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE / "svm.json")
    given = parser.parse_args(arguments)
    share = 8 if given.quick else 1
    width, repeats = given.width // share, 1 if given.quick else given.repeats
    train, test = (planted(rows // share, width, given.classes, seed=seed) for seed, rows in ((1, TRAINVAL), (2, TEST)))
    where = surroundings("benchmarks.evaluate.svm", arguments)
    write(given.out, {**where, **compare(train, test, jobs=given.jobs, repeats=repeats)})


def planted(rows: int, width: int, classes: int, *, seed: int) -> tuple[Features, Targets]:
    """What pooled features are like (above zero, hardly any of them zero), and classes that are as rare as VOC07's."""
    directions = np.random.default_rng(0).standard_normal((classes, width))
    random = np.random.default_rng(seed)
    shown = random.random((rows, classes)) < np.geomspace(0.04, 0.4, classes)
    hidden = shown @ directions * 0.1 + random.standard_normal((rows, width))
    features = torch.from_numpy(np.log1p(np.exp(hidden))).float()
    return (
        Features(features=features, labels=None, index=torch.arange(rows), classes=None, source=f"planted {seed}"),
        np.where(shown, 1, -1).astype(np.int8),
    )


def compare(
    train: tuple[Features, Targets], test: tuple[Features, Targets], *, jobs: int, repeats: int
) -> dict[str, Any]:
    """Times of all contenders, one after the other and then again; all must find the same."""
    names = [str(place) for place in range(train[1].shape[1])]

    def ours() -> Found:
        result: dict[str, Any] = svm(*train, *test, class_names=names, jobs=jobs)
        get_reusable_executor().shutdown(wait=True)
        return [(row["cost"], row["ap_area"]) for row in result["classes"].values()]

    contenders: dict[str, Callable[[], Found]] = {
        "ours": ours,
        "serial": lambda: recipe(train, test, fit_all=False),
        "published": lambda: recipe(train, test, fit_all=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, Found] = {}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - start)
    if not found["ours"] == found["serial"] == found["published"]:
        raise SystemExit(f"the contenders do not find the same costs and average precisions: {found}")
    timings = {name: Timing(taken) for name, taken in seconds.items()}
    median = {name: timing.median_ms for name, timing in timings.items()}
    return {
        "train": len(train[0]),
        "test": len(test[0]),
        "width": train[0].features.shape[1],
        "classes": len(names),
        "costs": len(VISSL_COSTS),
        "folds": FOLDS,
        "jobs": jobs,
        "times_as_fast_as_serial": round(median["serial"] / median["ours"], 3),
        "times_as_fast_as_published": round(median["published"] / median["ours"], 3),
        "found": "the same costs and average precisions, to the last bit",
        "seeds": "0 (directions and LIBLINEAR), 1 (train), 2 (test)",
        "contenders": {name: timing.as_json() for name, timing in timings.items()},
    }


def recipe(train: tuple[Features, Targets], test: tuple[Features, Targets], *, fit_all: bool) -> Found:
    """scikit-learn, one after the other."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    known, asked = (unit(features) for features, _ in (train, test))
    found = []
    for signs, wanted in zip(train[1].T, test[1].T, strict=True):
        scores, machines = [], []
        for cost in VISSL_COSTS:
            machine = new_machine(cost)
            scores.append(cross_val_score(machine, known, signs, cv=FOLDS, scoring="average_precision").mean())
            machines.append(machine.fit(known, signs) if fit_all else machine)
        best = int(np.argmax(scores))
        chosen = machines[best] if fit_all else machines[best].fit(known, signs)
        found.append((VISSL_COSTS[best], area_ap(chosen.decision_function(asked), wanted > 0)))
    return found


def new_machine(cost: float) -> LinearSVC:
    return LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, loss="squared_hinge", dual=True, tol=1e-4, max_iter=2000, random_state=0
    )


def unit(features: Features) -> NDArray[np.float64]:
    rows = features.features.double().numpy()
    return np.asarray(rows / (np.linalg.norm(rows, axis=1)[:, np.newaxis] + 1e-5))


if __name__ == "__main__":
    main(sys.argv[1:])
