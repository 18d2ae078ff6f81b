"""The pilot's page is what its JSON says, and the word for an effect is the plan's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import fill_in
from benchmarks.pilot import run
from benchmarks.pilot.compare import comparisons, differences
from benchmarks.pilot.paired import paired_difference, verdict
from benchmarks.pilot.report import HERE, PAGE, main
from benchmarks.pilot.settings import PAIRED, SHORT, best_of, paired_name, recipe_fields
from co2ssl.config import load_recipe

PLACES = ("pairs", "differences", "pull", "negatives", "short", "cost", "runs")


SURE, OPPOSITE, HINT, SMALL, MIXED = (2.9, 3.0, 3.1), (-2.9, -3.0, -3.1), (1.0, 3.0, 5.0), (0.1, 1.0, 1.9), (-1, 5, 5)


@pytest.mark.parametrize(
    ("knn", "linear", "word"),
    [
        (SURE, SURE, "an effect: it helps"),
        (OPPOSITE, OPPOSITE, "an effect: it hurts"),
        (SURE, HINT, "unclear: kNN alone"),
        (SMALL, OPPOSITE, "unclear: linear alone"),
        (SURE, OPPOSITE, "unclear: kNN, linear alone"),
        (HINT, MIXED, "a hint (kNN)"),
        (HINT, HINT, "a hint (kNN, linear)"),
        (SMALL, MIXED, "nothing"),
        # Two pairs are no three, whatever they say.
        (SURE[:2], SURE[:2], "too few pairs"),
        (HINT[:1], HINT, "too few pairs"),
    ],
)
def test_the_plans_words(knn: tuple[float, ...], linear: tuple[float, ...], word: str) -> None:
    found = {"kNN": paired_difference(knn), "linear": paired_difference(linear)}
    assert verdict({name: one for name, one in found.items() if one is not None}) == word


def test_students_interval() -> None:
    """By hand: mean 3, standard deviation 2, t of two degrees of freedom 4.3027."""
    found = paired_difference([1.0, 3.0, 5.0])
    assert found is not None
    assert found.low == pytest.approx(3 - 4.3027 * 2 / 3**0.5, abs=1e-3)
    assert found.high == pytest.approx(3 + 4.3027 * 2 / 3**0.5, abs=1e-3)
    assert paired_difference([]) is None


def test_the_runs_of_the_plan() -> None:
    assert (len(PAIRED), len(SHORT)) == (12, 12)
    assert len({planned.name for planned in (*PAIRED, *SHORT)}) == 24
    # As the papers have them: augmentation, temperature, and a hidden layer as wide as the features.
    for planned in PAIRED:
        v2 = planned.recipe.startswith("moco-v2")
        recipe = load_recipe(planned.recipe, overrides=recipe_fields(planned.options)).recipe
        assert (recipe.views, recipe.temperature) == (("moco-v2", 0.2) if v2 else ("moco-v1", 0.07))
        assert recipe.head_hidden == (256 if v2 else None)
        term = (0.3, 0.05) if v2 else (10.0, 0.04)
        if planned.recipe.endswith("+co2"):
            assert (recipe.consistency_weight, recipe.consistency_temperature) == term
            assert recipe.consistency_ramp_epochs == 0
        else:
            assert recipe.consistency_weight == 0
    # The two of a pair are given the same options; only the recipe has the term.
    pairs = Counter((planned.recipe.removesuffix("+co2"), str(planned.options)) for planned in PAIRED)
    assert set(pairs.values()) == {2}


def test_the_best_short_setting_at_full_length() -> None:
    for name, changed in (("alpha-1", {"consistency_weight": 1.0}), ("ramp-20", {"consistency_ramp_epochs": 60})):
        for seed, planned in enumerate(best_of(f"short-{name}")):
            plain = next(one for one in PAIRED if one.name == f"moco-seed-{seed}")
            assert planned.recipe == "moco-small-64+co2"
            assert planned.options == {**plain.options, **changed}
    with pytest.raises(ValueError, match="no short run with the term"):
        best_of("short-plain")


def made_up(planned: Any, top1: float) -> dict[str, Any]:
    epoch = {"epoch": 1, "instance": 5.0, "consistency": 0.5, "top1": 0.25}
    shares = {"same": 0.2, "other": 0.1, "pair": 0.9, "by_chance": 0.1, "mass_of_p": 0.321, "mass_of_q": 0.3}
    result = {
        "asked": {"recipe": planned.recipe, **planned.options},
        "commit": 40 * "a",
        "cpu": "a processor",
        "train_seconds": 600,
        "epochs": [epoch, {**epoch, "epoch": 2}],
        "probes": [{"epoch": 2, "top1": top1, "effective_rank": 7.0}],
    }
    if planned in SHORT:
        return result
    measured = {"knn": {"top1": top1}, "linear_fast": {"top1": top1 + 0.1}}
    return {**result, **measured, "negatives": {"before": shares, "after": shares}}


def test_the_page_is_rebuilt_from_the_json(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for planned in (*PAIRED, *SHORT):
        top1 = 0.5 + 0.03 * planned.recipe.endswith("+co2")
        (tmp_path / "results" / f"{planned.name}.json").write_text(json.dumps(made_up(planned, top1)))
    times = {
        "unwatched_ms": 98.0,
        "without_ms": 100.0,
        "with_ms": 103.0,
        "ratio": 1.03,
        "ratio_quartiles": [1.01, 1.04],
        "ratio_to_unwatched": 1.051,
        "ratio_to_unwatched_quartiles": [1.0, 1.1],
    }
    cost = dict.fromkeys(("moco", "moco-v2"), times)
    (tmp_path / "cost.json").write_text(json.dumps({"result": cost}))
    part = {"instance": 6.2, "consistency": 0.0123, "similarity": 0.777, "agreement": -0.5}
    pull = [{"step": step, **part, "pull_of_instance": 1.25, "pull_of_term": 0.5} for step in (10, 20, 50)]
    names = [paired_name(method, with_term=term, seed=0) for method in cost for term in (False, True)]
    (tmp_path / "pull.json").write_text(json.dumps({"result": dict.fromkeys(names, pull)}))
    page = tmp_path / "pilot.md"
    page.write_text("# Pilot\n\n" + "".join(f"{name}:\n<!-- {name} -->\n<!-- end -->\nafter\n" for name in PLACES))
    main(tmp_path, page)
    text = page.read_text()
    assert "| moco | kNN | +3.0, +3.0, +3.0 | +3.0 |" in text
    assert "| moco-v2 + CO2 | 53.0 | 53.0 | 53.0 | 63.0 |" in text
    assert "| moco | kNN | +3.0, +3.0, +3.0 | +3.0 | +3.0 to +3.0 | an effect: it helps |" in text
    assert "| alpha-1 | consistency_weight 1.0 | 625 | 53.0 | 5.00 | 0.500 | 7 |" in text
    assert "| moco + CO2 | before | 0.200 | 0.100 | 0.900 | 10.0 % | 32.1 % | 30.0 % |" in text
    assert "| moco | 98.0 | 100.0 | 103.0 | 1.030 (1.010 to 1.040) | 1.051 (1.000 to 1.100) |" in text
    assert "| moco + CO2 | 50 | 6.20 | 0.0123 | 0.777 | 1.25 | 0.50 | -0.50 |" in text
    assert "| moco + CO2 | 20 |" not in text
    assert text.count("after\n") == len(PLACES)
    assert {path.name for path in (tmp_path / "pilot").iterdir()} == {
        f"{name}.png" for name in ("differences", "curves", "pull", "negatives", "short")
    }
    main(tmp_path, page)
    assert page.read_text() == text
    # The best setting is compared with the plain runs.
    for planned in best_of("short-alpha-1"):
        (tmp_path / "results" / f"{planned.name}.json").write_text(json.dumps(made_up(planned, 0.45)))
    main(tmp_path, page)
    assert "| moco, alpha-1 | kNN | -5.0, -5.0, -5.0 | -5.0 |" in page.read_text()
    assert "| moco, alpha-1 + CO2 | 45.0 | 45.0 | 45.0 | 55.0 |" in page.read_text()
    # A pair that is not whole is not counted.
    (tmp_path / "results" / f"{paired_name('moco', with_term=True, seed=2)}.json").unlink()
    main(tmp_path, page)
    assert "| moco | kNN | +3.0, +3.0 | +3.0 |" in page.read_text()


def test_the_committed_page_is_what_the_committed_json_says(tmp_path: Path) -> None:
    page = tmp_path / "pilot.md"
    page.write_text(PAGE.read_text())
    main(HERE, page)
    for figure in (tmp_path / "pilot").iterdir():
        assert f"(pilot/{figure.name})" in PAGE.read_text(), "a figure that the page does not show"
    assert page.read_text() == PAGE.read_text(), "make pilot writes another page: commit it"


def test_the_sentence_in_the_readme_is_what_the_committed_json_says() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in (HERE / "results").glob("*.json")}
    found = {method: differences(results, pairs, "knn") for method, pairs in comparisons(results).items()}
    moco, v2, best = found["moco"], found["moco-v2"], found["moco, alpha-1"]
    assert moco is not None
    assert v2 is not None
    assert best is not None
    assert moco.low is not None
    assert moco.high is not None
    assert best.low is not None
    assert best.high is not None
    text = " ".join((PAGE.parents[1] / "README.md").read_text().split())
    assert f"costs MoCo {-moco.mean:.1f} points of kNN" in text
    assert f"95 % interval {-moco.high:.1f} to {-moco.low:.1f}) and MoCo v2 {-v2.mean:.1f}" in text
    assert f"loses {-best.mean:.1f} ({-best.high:.1f} to {-best.low:.1f})" in text
    assert not v2.leaves_out_zero


def test_a_place_without_a_table() -> None:
    with pytest.raises(ValueError, match="the page has places for"):
        fill_in("<!-- pairs -->\n<!-- end -->\n", {"other": "| a |"})


def test_the_study_is_started_as_a_file_too(tmp_path: Path) -> None:
    words = [sys.executable, str(HERE / "run.py"), "data", "--list", "--runs", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("to be run") == 24


def test_where_each_run_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/moco-seed-0.json").write_text("{}")
    (tmp_path / "runs/moco+co2-seed-0").mkdir(parents=True)
    epoch = json.dumps({"event": "epoch", "epoch": 7.0})
    (tmp_path / "runs/moco+co2-seed-0/metrics.jsonl").write_text(f"{epoch}\n")
    run.main(["data", "--list", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 24
    assert lines[0] == ["moco-seed-0", "done"]
    assert lines[1] == ["moco+co2-seed-0", "broken off after 7 epochs"]
    assert {words for _, words in lines[2:]} == {"to be run"}
    run.main(["data", "--list", "--only", "short", "--runs", str(tmp_path), "--out", str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 12
