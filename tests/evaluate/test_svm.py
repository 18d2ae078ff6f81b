from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from typing import Any, Self

import numpy as np
import pytest
import torch
from joblib import delayed  # type: ignore[import-untyped]
from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from co2ssl.errors import UsageError
from co2ssl.evaluate.average_precision import area_ap
from co2ssl.evaluate.features import EvaluationError, Features
from co2ssl.evaluate.svm import CLASS_WEIGHT, FOLDS, GOYAL_COSTS, PCL_COST, VISSL_COSTS, svm
from co2ssl.evaluate.svm_problem import unit_length
from co2ssl.evaluate.svm_search import LARGE_PAGES, Solver, _side_by_side, cost_groups, cross_validate

COSTS = (0.01, 0.3, 10.0)
NAMES = ("ant", "bee", "cat")
DIRECTIONS = np.linalg.qr(np.random.default_rng(99).standard_normal((12, 3)))[0]

Targets = NDArray[np.int8]


def wrapped(rows: NDArray[np.float64], source: str = "somewhere") -> Features:
    return Features(
        features=torch.from_numpy(rows).float(),
        labels=None,
        index=torch.arange(len(rows)),
        classes=None,
        source=source,
    )


def planted(num: int, seed: int, *, slope: float = 8.0) -> tuple[NDArray[np.float64], Targets]:
    """Unit vectors (N, 12); each of three classes is shown with odds that rise along a direction of its own.

    The best possible ranking of a class is then by that direction.
    """
    random = np.random.default_rng(seed)
    rows = random.standard_normal((num, 12))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    odds = 1 / (1 + np.exp(-slope * (rows @ DIRECTIONS) + np.array([0.5, 1.5, 2.5])))
    return rows, np.where(random.random(odds.shape) < odds, 1, -1).astype(np.int8)


def some_difficult(targets: Targets, seed: int) -> Targets:
    """A tenth of the targets becomes "difficult only"."""
    return np.where(np.random.default_rng(seed).random(targets.shape) < 0.1, np.int8(0), targets).astype(np.int8)


def measure(
    train: tuple[NDArray[np.float64], Targets], test: tuple[NDArray[np.float64], Targets], **changed: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {"class_names": NAMES, "costs": COSTS, **changed}
    return svm(wrapped(train[0], "train"), train[1], wrapped(test[0], "test"), test[1], **settings)


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "seconds": 0}


def slow_machine(cost: float) -> LinearSVC:
    return LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, dual=True, loss="squared_hinge", max_iter=2000, tol=1e-4, random_state=0
    )


def slow_class(
    train: tuple[NDArray[np.float64], Targets], test: tuple[NDArray[np.float64], Targets]
) -> tuple[dict[str, float], float, float]:
    """The published recipe for one class, a cost at a time: (score of every cost, cost chosen, area)."""
    # Through float32, as features come.
    known, asked = (rows.astype(np.float32).astype(np.float64) for rows in (train[0], test[0]))
    known /= np.linalg.norm(known, axis=1)[:, None] + 1e-5
    asked /= np.linalg.norm(asked, axis=1)[:, None] + 1e-5
    known, signs = known[train[1] != 0], train[1][train[1] != 0]
    asked, wanted = asked[test[1] != 0], test[1][test[1] != 0]
    scores, best, chosen = {}, -1.0, 0.0
    for cost in COSTS:
        score = cross_val_score(slow_machine(cost), known, signs, cv=3, scoring="average_precision").mean()
        scores[f"{cost:g}"] = float(score)
        if score > best:
            best, chosen = float(score), cost
    values = slow_machine(chosen).fit(known, signs).decision_function(asked)
    precision, recall, _ = precision_recall_curve(wanted > 0, values)
    return scores, chosen, -float((np.diff(recall) * np.maximum.accumulate(precision)[:-1]).sum())


def test_the_choice_of_cost_and_the_result_against_a_slow_loop() -> None:
    train, test = planted(150, 0, slope=4), planted(120, 1, slope=4)
    train, test = (train[0], some_difficult(train[1], 2)), (test[0], some_difficult(test[1], 3))
    result = measure(train, test)
    areas = []
    for place, name in enumerate(NAMES):
        scores, chosen, area = slow_class((train[0], train[1][:, place]), (test[0], test[1][:, place]))
        assert result["classes"][name]["cross_validated"] == pytest.approx(scores, abs=1e-12)
        assert result["classes"][name]["cost"] == chosen
        assert result["classes"][name]["ap_area"] == pytest.approx(area, abs=1e-12)
        areas.append(area)
    assert result["map_area"] == pytest.approx(np.mean(areas))
    elevens = [result["classes"][name]["ap_11point"] for name in NAMES]
    assert result["map_11point"] == pytest.approx(np.mean(elevens))
    assert len({result["classes"][name]["cost"] for name in NAMES}) > 1


def test_planted_data_reaches_the_best_average_precision_there_is() -> None:
    train, test = planted(2000, 0), planted(1500, 1)
    result = measure(train, test, costs=(0.1, 1.0, 10.0))
    for place, name in enumerate(NAMES):
        best = area_ap(test[0] @ DIRECTIONS[:, place], test[1][:, place] > 0)
        assert 0.3 < best < 0.95
        # No ranking is better on average; on one sample one may be by a little.
        assert best - 0.02 < result["classes"][name]["ap_area"] < best + 0.01


def test_features_that_know_nothing_score_at_chance() -> None:
    random = np.random.default_rng(5)
    _, targets = planted(400, 0)
    _, asked = planted(1000, 1)
    result = measure((random.standard_normal((400, 12)), targets), (random.standard_normal((1000, 12)), asked))
    share = (asked > 0).mean(axis=0)
    for name, chance in zip(NAMES, share.tolist(), strict=True):
        assert result["classes"][name]["ap_area"] == pytest.approx(chance, abs=0.06)
    assert result["map_area"] == pytest.approx(share.mean(), abs=0.04)


def test_difficult_images_change_nothing_wherever_they_lie() -> None:
    (known, targets), (asked, wanted) = planted(120, 0), planted(90, 1)
    targets, wanted = targets[:, :1].copy(), wanted[:, :1].copy()
    targets[5::10], wanted[3::10] = 0, 0
    names = NAMES[:1]
    before = measure((known, targets), (asked, wanted), class_names=names)["classes"]
    moved, elsewhere = known.copy(), asked.copy()
    random = np.random.default_rng(0)
    moved[5::10], elsewhere[3::10] = random.standard_normal((12, 12)), 50 * random.standard_normal((9, 12))
    assert measure((moved, targets), (elsewhere, wanted), class_names=names)["classes"] == before
    # Nor does it matter whether they are there at all.
    kept, left = targets[:, 0] != 0, wanted[:, 0] != 0
    gone = measure((known[kept], targets[kept]), (asked[left], wanted[left]), class_names=names)["classes"]
    assert gone == before
    # They did belong to the class that is not difficult: as negatives they count.
    assert (
        measure((known, np.where(targets == 0, -1, targets).astype(np.int8)), (asked, wanted), class_names=names)[
            "classes"
        ]
        != before
    )


@pytest.mark.parametrize(
    ("difficult", "in_training", "in_test"),
    [("left-out", 0, 0), ("negative-in-training", -1, 0), ("negative", -1, -1)],
)
def test_what_difficult_means_elsewhere(difficult: str, in_training: int, in_test: int) -> None:
    (known, targets), (asked, wanted) = planted(120, 0), planted(90, 1)
    targets, wanted = some_difficult(targets, 2), some_difficult(wanted, 3)
    said = measure((known, targets), (asked, wanted), difficult=difficult)
    written = measure(
        (known, np.where(targets == 0, in_training, targets).astype(np.int8)),
        (asked, np.where(wanted == 0, in_test, wanted).astype(np.int8)),
    )
    assert said["classes"] == written["classes"]
    assert said["difficult"] == difficult


def test_a_fixed_cost_is_one_fit_a_class() -> None:
    train, test = planted(150, 0), planted(120, 1)
    result = measure(train, test, fixed_cost=PCL_COST)
    known, asked = (unit_length(wrapped(rows)) for rows in (train[0], test[0]))
    for place, name in enumerate(NAMES):
        values = slow_machine(0.5).fit(known, train[1][:, place]).decision_function(asked)
        assert result["classes"][name]["ap_area"] == pytest.approx(area_ap(values, test[1][:, place] > 0), abs=1e-12)
        assert result["classes"][name]["cost"] == 0.5
        assert result["classes"][name]["cross_validated"] is None
    assert result["cross_validation"] is None


def test_the_published_constants() -> None:
    assert list(VISSL_COSTS) == [0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000]
    assert list(GOYAL_COSTS) == [float(f"1e{exponent}") for exponent in range(-7, 3)]
    assert CLASS_WEIGHT == {1: 2, -1: 1}
    assert FOLDS == 3
    assert PCL_COST == 0.5


def test_processes_do_not_change_the_result_and_twice_is_the_same() -> None:
    train, test = planted(150, 0), planted(120, 1)
    first = without_time(measure(train, test, seed=3))
    assert without_time(measure(train, test, seed=3, jobs=2)) == first
    assert without_time(measure(train, test, seed=3)) == first


def test_the_seed_is_of_the_order_in_which_images_are_visited() -> None:
    rows, targets = planted(80, 0)
    weights = [
        Solver(class_weight=CLASS_WEIGHT, seed=seed).fit(rows, targets[:, 0], cost=10.0).coef_ for seed in (0, 0, 1)
    ]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    np.testing.assert_allclose(weights[0], weights[2], atol=0.01)


def test_costs_go_in_groups_that_halve_the_highest_first() -> None:
    groups = cost_groups(VISSL_COSTS)
    assert [[VISSL_COSTS[place] for place in group] for group in groups] == [
        [1000, 100, 50, 20, 15, 10],
        [5, 2, 1],
        [0.1],
        [0.01],
    ]
    assert cost_groups([3.0]) == [[0]]
    assert cost_groups([0.1, 10.0, 1.0]) == [[1, 2], [0]]


def test_rows_are_copied_once_a_group_and_every_fit_is_counted() -> None:
    rows, targets = planted(90, 0)
    fitted: list[int] = []

    class Counting(Solver):
        def fit(self, features: NDArray[np.float64], signs: Targets, *, cost: float) -> LinearSVC:
            fitted.append(id(features))
            return super().fit(features, signs, cost=cost)

    done: list[int] = []
    solver = Counting(class_weight=CLASS_WEIGHT, seed=0)
    cross_validate(rows, targets, costs=[1, 2, 3, 4, 5], folds=3, solver=solver, jobs=1, advance=done.append)
    assert (len(fitted), sum(done)) == (45, 45)
    # Groups of 3, 1 and 1 costs: nine folds of each, the first group's in the same memory for all three.
    assert done == [3] * 9 + [1] * 18
    assert all(len(set(fitted[start : start + 3])) == 1 for start in range(0, 27, 3))


def test_workers_share_the_features_and_have_one_thread_each() -> None:
    large = np.zeros((300, 600))
    kinds = list(_side_by_side([delayed(type)(large)] * 2, jobs=2))
    assert kinds == [np.memmap, np.memmap]
    for jobs in (1, 2):
        (found,) = _side_by_side([delayed(threadpool_info)()], jobs=jobs)
        assert all(library["num_threads"] == 1 for library in found)


def test_workers_ask_for_large_pages_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = LARGE_PAGES
    monkeypatch.setenv(name, "glibc.malloc.arena_max=1")
    assert list(_side_by_side([delayed(os.environ.get)(name)], jobs=1)) == ["glibc.malloc.arena_max=1"]
    assert os.environ[name] == "glibc.malloc.arena_max=1"
    monkeypatch.delenv(name)
    get_reusable_executor().shutdown(wait=True)
    assert list(_side_by_side([delayed(os.environ.get)(name)] * 2, jobs=2)) == [value, value]
    assert name not in os.environ


def test_workers_need_no_torch() -> None:
    code = "import co2ssl.evaluate.svm_search, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_result_says_what_was_done_and_is_json() -> None:
    train, test = planted(100, 0), planted(60, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = measure(train, test, seed=7)
    assert json.loads(json.dumps(result)) == result
    assert (result["protocol"], result["seed"], result["num_train"], result["num_val"]) == ("svm", 7, 100, 60)
    assert (result["num_classes"], result["num_features"], result["train"]) == (3, 12, "train")
    assert result["class_weight"] == {"1": 2, "-1": 1}
    assert result["cross_validation"] == {"costs": list(COSTS), "folds": 3, "unconverged": 0, "borrowed": []}
    assert result["left_out"] == {}
    assert result["classes"]["ant"]["positives_train"] == int((train[1][:, 0] > 0).sum())
    assert result["classes"]["ant"]["positives_test"] == int((test[1][:, 0] > 0).sum())


def test_fits_that_run_out_of_iterations_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    # Random signs and few features cannot be separated: at such a cost the dual creeps.
    rows, targets = random.standard_normal((60, 5)), random.choice([-1, 1], size=(60, 1)).astype(np.int8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = measure((rows, targets), (rows, targets), class_names=["ant"], costs=[1e5])
    assert result["cross_validation"]["unconverged"] == 3
    assert result["classes"]["ant"]["converged"] is False
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    class Counting:
        def __init__(self, title: str, *, total: int, unit: str, quiet: bool) -> None:
            assert (total, unit, quiet) == (27, "fits", False)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None: ...

        def advance(self, count: int) -> None:
            counted.append(count)

    monkeypatch.setattr("co2ssl.evaluate.svm.Progress", Counting)
    measure(planted(60, 0), planted(60, 1), quiet=False)
    assert sum(counted) == 27


def test_unit_length_is_the_published_division() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [300.0, 400.0]])
    expected = np.array([[3 / (5 + 1e-5), 4 / (5 + 1e-5)], [0.0, 0.0], [300 / (500 + 1e-5), 400 / (500 + 1e-5)]])
    np.testing.assert_allclose(unit_length(wrapped(rows)), expected, rtol=1e-12)


def test_a_class_that_the_test_does_not_show_is_left_out_and_named() -> None:
    train, (asked, wanted) = planted(100, 0), planted(80, 1)
    whole = measure(train, (asked, wanted))
    missing = wanted.copy()
    missing[:, 1] = -1
    # Difficult objects only are no better than none.
    missing[:4, 1] = 0
    result = measure(train, (asked, missing))
    assert result["left_out"] == {"bee": "no image of test shows it"}
    assert result["classes"] == {name: whole["classes"][name] for name in ("ant", "cat")}
    assert result["num_classes"] == 2
    assert result["map_area"] == pytest.approx(np.mean([whole["classes"][name]["ap_area"] for name in ("ant", "cat")]))


def test_a_class_that_is_shown_once_borrows_the_cost_of_the_others() -> None:
    (known, targets), test = planted(100, 0), planted(80, 1)
    targets[:, 1] = -1
    targets[17, 1] = 1
    result = measure((known, targets), test)
    assert result["cross_validation"]["borrowed"] == ["bee"]
    bee = result["classes"].pop("bee")
    assert bee["cross_validated"] is None
    means = [np.mean([row["cross_validated"][f"{cost:g}"] for row in result["classes"].values()]) for cost in COSTS]
    assert bee["cost"] == COSTS[int(np.argmax(means))]
    # With two images there are two folds that have one, and they decide.
    targets[71, 1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure((known, targets), test)["cross_validation"]["borrowed"] == []


def changed(targets: Targets, column: int, sign: int) -> Targets:
    copied = targets.copy()
    copied[:, column] = sign
    return copied


def test_classes_that_cannot_be_learnt_are_errors_that_name_them() -> None:
    (known, targets), test = planted(100, 0), planted(80, 1)
    with pytest.raises(EvaluationError, match="train has no image that shows 'bee', which test shows"):
        measure((known, changed(targets, 1, -1)), test)
    with pytest.raises(EvaluationError, match="train has no image that shows 'bee'"):
        measure((known, changed(targets, 1, 0)), test)
    with pytest.raises(EvaluationError, match="train has no image that does not show 'cat'"):
        measure((known, changed(targets, 2, 1)), test)
    # In neither, it is no concern of this data.
    left_out = measure((known, changed(targets, 1, -1)), (test[0], changed(test[1], 1, -1)))["left_out"]
    assert list(left_out) == ["bee"]
    with pytest.raises(EvaluationError, match="no image of test shows any class"):
        measure((known, targets), (test[0], np.full_like(test[1], -1)))


def test_too_few_images_to_choose_a_cost() -> None:
    (known, targets), test = planted(100, 0), planted(80, 1)
    once = np.full_like(targets, -1)
    once[[3, 4, 5], [0, 1, 2]] = 1
    with pytest.raises(EvaluationError, match=r"too few images of every class .*a fixed cost"):
        measure((known, once), test)
    assert measure((known, once), test, fixed_cost=0.5)["num_classes"] == 3


def test_features_that_cannot_be_used() -> None:
    (known, targets), test = planted(60, 0), planted(60, 1)
    with pytest.raises(EvaluationError, match="train has 12 features an image and test has 11"):
        measure((known, targets), (test[0][:, :11], test[1]))
    broken = known.copy()
    broken[3, 3] = np.inf
    with pytest.raises(EvaluationError, match="features of train hold values that are not finite"):
        measure((broken, targets), test)
    with pytest.raises(EvaluationError, match="test has no images"):
        measure((known, targets), (test[0][:0], test[1][:0]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"costs": []}, "no cost to choose"),
        ({"costs": [1.0, 0.0]}, "cost is 0"),
        ({"costs": [float("nan")]}, "cost is nan"),
        ({"fixed_cost": -1.0}, "cost is -1"),
        ({"folds": 1}, "needs at least 2"),
        ({"class_weight": {1: 2.0}}, "class_weight"),
        ({"class_weight": {1: 2.0, -1: 0.0}}, "class_weight"),
        ({"difficult": "left-uot"}, "did you mean left-out"),
        ({"difficult": "?"}, "choose one of left-out, negative-in-training, negative"),
        ({"jobs": 0}, "0 jobs"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure(planted(30, 0), planted(30, 1), **setting)


def test_targets_of_another_shape_or_with_other_numbers() -> None:
    (known, targets), test = planted(60, 0), planted(60, 1)
    with pytest.raises(ValueError, match=r"train have shape \(59, 3\).*\(60, 3\)"):
        measure((known, targets[:59]), test)
    with pytest.raises(ValueError, match=r"shape \(60, 3\).*\(60, 2\)"):
        measure((known, targets), test, class_names=["ant", "bee"])
    with pytest.raises(ValueError, match="other than 1, 0 and -1"):
        measure((known, (targets * 2).astype(np.int8)), test)
