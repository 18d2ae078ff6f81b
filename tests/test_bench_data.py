"""The benchmark of views: it runs on made images, its sides do what they say, and its picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmarks.data import bench, ours
from benchmarks.data.cases import CASES, write_images
from benchmarks.data.device import make_step, on_the_device
from benchmarks.data.job import Job
from benchmarks.peers import Peers


@pytest.fixture
def sides_here(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Our sides run in this process, which saves an import of torch for each."""
    asked: list[Job] = []

    def run_side(python: Any, module: str, job: Job, **_: Any) -> Any:
        asked.append(job)
        if module == "benchmarks.data.ours":
            return ours.SIDES[job.side](job)
        return {"images_per_second": 10.0, "cpu_ms_per_image": 100.0}

    monkeypatch.setattr(bench, "run_side", run_side)
    monkeypatch.setattr(Peers, "python", lambda *_: "python")
    monkeypatch.setattr(bench, "pin", lambda cores: cores)
    return asked


def result_of(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_case_from_files_and_one_from_memory(tmp_path: Path, sides_here: list[Job]) -> None:
    bench.main(["files_224_to_64", "memory_32", "--quick", "--out", str(tmp_path)])
    files, memory = result_of(tmp_path, "files_224_to_64"), result_of(tmp_path, "memory_32")
    assert {"commit", "date", "cpu", "torch", "command"} <= files.keys()
    assert set(files["result"]["sides"]) == {"ours", "ours, normalised", "decoding alone", "lightly", "torchvision"}
    assert "decoding alone" not in memory["result"]["sides"]
    ratio = files["result"]["ratios"]["ours / lightly"]
    rate = files["result"]["sides"]["ours"]["images_per_second"]
    assert ratio == {
        "ratio": round(rate / 10, 3),
        "range": [round(rate / 10, 3)] * 2,
        "must_reach": 3,
        "reached": rate >= 30,
    }
    operations = {"RandomResizedCrop", "ColorJitter", "RandomGrayscale", "RandomHorizontalFlip"}
    assert set(files["result"]["parts_ms"]) == {"decoding", "GaussianBlur"} | operations
    assert set(memory["result"]["parts_ms"]) == {"decoding"} | operations
    assert all(spent > 0 for spent in files["result"]["parts_ms"].values())
    assert (tmp_path / "views.png").stat().st_size > 0
    assert {job.image_size for job in sides_here} == {64, 32}


def test_decoding_is_a_part_of_the_whole(tmp_path: Path) -> None:
    write_images("224 x 224", tmp_path / "files", 16, photographs=None, small=None)
    asked = {"images": str(tmp_path / "files"), "image_size": 64, "blur": True, "count": 16, "batch_size": 8}
    floor, whole = (ours.SIDES[side](Job(side=side, **asked)) for side in ("decoding", "normalised"))  # type: ignore[arg-type]
    assert 0 < floor["cpu_ms_per_image"] < whole["cpu_ms_per_image"]
    with pytest.raises(SystemExit, match="16 images are too few: 24 were asked for"):
        ours.SIDES["views"](Job(side="views", **{**asked, "count": 24}))  # type: ignore[arg-type]


def test_the_loaders_share_of_a_step(tmp_path: Path, sides_here: list[Job]) -> None:
    bench.main(["loader", "--quick", "--out", str(tmp_path)])
    result = result_of(tmp_path, "loader")["result"]
    # The step of 8 images takes 0.8 s at the rate that stands in for it, on two cores.
    expected = 8 * result["loader"][0]["cpu_ms_per_image"] / (2 * 800)
    assert result["share"] == pytest.approx(expected, abs=1e-4)
    assert [job.image_size for job in sides_here] == [96, 96]


def test_images_are_what_they_are_called(tmp_path: Path) -> None:
    write_images("500 x 375", tmp_path / "large", 4, photographs=None, small=None)
    write_images("500 x 375", tmp_path / "again", 3, photographs=tmp_path / "large", small=None)
    for name, count in (("large", 4), ("again", 3)):
        files = sorted((tmp_path / name).iterdir())
        assert len(files) == count
        assert all(np.asarray(cv2.imread(str(file))).shape == (375, 500, 3) for file in files)
    with pytest.raises(SystemExit, match="has 4 JPEG files, and the benchmark needs 5"):
        write_images("224 x 224", tmp_path / "more", 5, photographs=tmp_path / "large", small=None)


def test_the_device_case_says_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_the_device(quick=True, repeats=1) == {"not_run": "no CUDA device"}
    make_step(32, 4, torch.device("cpu"))(0)


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(["files_1000"])
    assert "no case 'files_1000'; there are files_500_to_224" in capsys.readouterr().err
    assert bench.parse([]).cases == [*CASES, "loader", "device"]
