"""The pilot's page is what its JSON says, and the word for an effect is the plan's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import fill_in
from benchmarks.pilot import run
from benchmarks.pilot.paired import paired_difference
from benchmarks.pilot.report import main
from benchmarks.pilot.settings import PAIRED, SHORT, paired_name

PLACES = ("pairs", "differences", "negatives", "short", "cost", "runs")


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((2.9, 3.0, 3.1), "leaves out zero"),
        ((-2.9, -3.0, -3.1), "leaves out zero"),
        ((1.0, 3.0, 5.0), "a hint"),
        ((0.1, 1.0, 1.9), "nothing"),
        ((-1.0, 5.0, 5.0), "nothing"),
        ((4.0,), "one pair"),
    ],
)
def test_the_plans_words(values: tuple[float, ...], verdict: str) -> None:
    found = paired_difference(values)
    assert found is not None
    assert found.verdict == verdict


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
    # The two of a pair are given the same options; only the recipe has the term.
    pairs = Counter((planned.recipe.removesuffix("+co2"), str(planned.options)) for planned in PAIRED)
    assert set(pairs.values()) == {2}


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
    cost = {method: {"without_ms": 100.0, "with_ms": 103.0, "ratio": 1.03} for method in ("moco", "moco-v2")}
    (tmp_path / "cost.json").write_text(json.dumps({"result": cost}))
    page = tmp_path / "pilot.md"
    page.write_text("# Pilot\n\n" + "".join(f"{name}:\n<!-- {name} -->\n<!-- end -->\nafter\n" for name in PLACES))
    main(tmp_path, page)
    text = page.read_text()
    assert "| moco | kNN | +3.0, +3.0, +3.0 | +3.0 |" in text
    assert "| moco-v2 + CO2 | 53.0 | 53.0 | 53.0 | 63.0 |" in text
    assert "| alpha-1 | consistency_weight 1.0 | 53.0 | 5.00 | 0.500 | 7 |" in text
    assert "| moco + CO2 | before | 0.200 | 0.100 | 0.900 | 10.0 % | 32.1 % | 30.0 % |" in text
    assert "| moco | 100.0 | 103.0 | 1.030 |" in text
    assert text.count("after\n") == len(PLACES)
    assert {path.name for path in (tmp_path / "pilot").iterdir()} == {
        f"{name}.png" for name in ("differences", "curves", "negatives", "short")
    }
    main(tmp_path, page)
    assert page.read_text() == text
    # A pair that is not whole is not counted.
    (tmp_path / "results" / f"{paired_name('moco', with_term=True, seed=2)}.json").unlink()
    main(tmp_path, page)
    assert "| moco | kNN | +3.0, +3.0 | +3.0 |" in page.read_text()


def test_a_place_without_a_table() -> None:
    with pytest.raises(ValueError, match="the page has places for"):
        fill_in("<!-- pairs -->\n<!-- end -->\n", {"other": "| a |"})


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
