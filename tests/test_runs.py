"""The machinery of accuracy studies: missing runs are run, finished ones are not, broken-off ones go on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import runs
from benchmarks.runs import Planned, carry_out
from tests.images import TINY, write_classes

SETTINGS: dict[str, object] = {
    **{name: value for name, value in TINY.items() if name != "quiet"},
    "epochs": 2,
    "probe_every": 1,
}


@pytest.fixture(autouse=True)
def few_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MEASURES", {**runs.MEASURES, "knn": ("knn", {"neighbours": 3})})
    monkeypatch.delitem(runs.MEASURES, "knn_200")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_classes(tmp_path / "data/train", classes=2, each=12)
    write_classes(tmp_path / "data/val", classes=2, each=4)
    return tmp_path / "data"


def carried_out(planned: Planned, data: Path, tmp_path: Path) -> dict[str, Any]:
    return carry_out(planned, data=data, runs=tmp_path / "runs", results=tmp_path / "results", module="tests.study")


def test_a_run_is_done_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planned("pair", "moco-small-32+co2", SETTINGS)
    result = carried_out(planned, data, tmp_path)
    assert result == json.loads((tmp_path / "results/pair.json").read_text())
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    assert [probe["epoch"] for probe in result["probes"] if "top1" in probe] == [1, 2]
    assert result["asked"] == json.loads(json.dumps({"recipe": "moco-small-32+co2", **SETTINGS}))
    assert str(tmp_path) not in result["pretrain"]
    assert 0 <= result["knn"]["top1"] <= 1
    assert 0 <= result["linear_fast"]["top1"] <= 1

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(subprocess, "run", refused)
    assert carried_out(planned, data, tmp_path) == result
    # A measure that came later is made up for, the training is not.
    monkeypatch.setitem(runs.MEASURES, "knn_2", ("knn", {"neighbours": 2}))
    assert carried_out(planned, data, tmp_path)["knn_2"]["k"] == 2
    with pytest.raises(ValueError, match="is of other settings"):
        carried_out(Planned("pair", "moco-small-32", SETTINGS), data, tmp_path)


def test_an_interrupted_run_is_resumed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planned("one", "moco-small-32", SETTINGS)
    folder = tmp_path / "runs/one"
    words: list[list[str]] = []
    run = subprocess.run

    def noted(given: list[str], **options: Any) -> Any:
        words.append(given)
        return run(given, **options)

    monkeypatch.setattr(subprocess, "run", noted)
    runs.train(planned, data=data, folder=folder)
    # As a kill between two epochs leaves it: a checkpoint of the first, and no backbone.
    (folder / "backbone.safetensors").unlink()
    runs.train(planned, data=data, folder=folder)
    assert ["--resume", str(folder)] == words[1][-2:]
    assert (folder / "backbone.safetensors").is_file()


def test_a_run_that_tunes_never_sees_val(data: Path, tmp_path: Path) -> None:
    planned = Planned("short", "moco-small-32", {**SETTINGS, "epochs": 1})
    where = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    assert runs.stands(planned, **where) == "to be run"
    for path in (data / "val").rglob("*.*"):
        path.unlink()
    result = carry_out(planned, data=data, module="tests.study", on_val=False, **where)
    assert "knn" not in result
    assert 0 <= result["probes"][-1]["top1"] <= 1
    assert runs.stands(planned, **where) == "done"
    (tmp_path / "results/short.json").unlink()
    assert runs.stands(planned, **where) == "broken off after 1 epochs"
