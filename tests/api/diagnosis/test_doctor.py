"""``co2ssl.doctor`` from Python, and its prediction beside real runs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import co2ssl
from co2ssl.api.diagnosis.steps import Trainee
from co2ssl.data.pixels import Image
from co2ssl.data.sources import ArraySource, DataError
from co2ssl.errors import UsageError
from tests.images import TINY, tiny, write_images

QUICK: dict[str, Any] = {**TINY, "recipe": "moco-small-32+co2", "seconds": 0.05, "sample": 10_000}


def array(count: int = 40) -> ArraySource:
    random = np.random.default_rng(0)
    return ArraySource("arrays", random.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8), None, None)


def test_images_that_are_no_files() -> None:
    found = co2ssl.doctor(array(), **QUICK)
    assert found.measured.disk is None
    assert found.inspection.formats == {}
    assert found.binding in ("decode", "augment", "step")
    assert found.prediction is not None
    assert found.prediction.epoch_seconds > 0
    assert found.problem is None


def test_any_method_and_any_dataset() -> None:
    dataset = torch.utils.data.TensorDataset(torch.rand(40, 3, 20, 20))
    options = {name: value for name, value in QUICK.items() if name not in ("batch_norm_groups", "queue_size")}
    found = co2ssl.doctor(dataset, **{**options, "recipe": "simclr-small-32+co2", "warmup_epochs": 0})
    assert found.setting.recipe.method == "simclr"
    assert found.prediction is not None


def test_fitted_where_no_recipe_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    found = co2ssl.doctor(tmp_path, seconds=0.05, width=0.125, epochs=3, workers=0, device="cpu")
    assert found.setting.recipe.epochs == 3
    assert any(change.startswith("queue_size") for change in found.setting.changes)
    assert found.prediction is not None
    assert found.prediction.seconds == pytest.approx(3 * found.prediction.epoch_seconds)


def test_a_cache_is_measured_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images", 40)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found = co2ssl.doctor(tmp_path / "images", cache=True, **QUICK)
    assert found.measured.disk is None
    assert any("all images are decoded once" in said for said in found.findings)
    assert found.prediction is not None
    assert not list((tmp_path / "temporary").iterdir())
    assert [path.name for path in tmp_path.iterdir() if path.name != "temporary"] == ["images"]


def test_bad_images_do_not_stop_it(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    for name in ("003.png", "004.png", "017.png"):
        (tmp_path / name).write_bytes(b"no image")
    found = co2ssl.doctor(tmp_path, **QUICK)
    assert [Path(which).name for which, _ in found.inspection.bad] == ["003.png", "004.png", "017.png"]
    assert found.problem is not None
    assert "--max-bad-share" in found.problem
    assert found.prediction is not None
    assert co2ssl.doctor(tmp_path, **{**QUICK, "max_bad_share": 0.1, "cache": True}).problem is None


def test_no_image_that_can_be_read(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    for options in (QUICK, {**QUICK, "auto": True}):
        found = co2ssl.doctor(tmp_path, **options)
        assert found.problem is not None
        assert (found.binding, found.prediction, found.milliseconds, found.advice) == (None, None, {}, ())
        json.dumps(found.as_json())


def test_fewer_images_than_a_batch_are_a_problem_and_what_can_be_measured_is() -> None:
    found = co2ssl.doctor(array(6), **QUICK)
    assert found.problem is not None
    assert "fewer than one batch of 8" in found.problem
    assert found.measured.decode is not None
    assert found.measured.step is None
    assert found.prediction is None


def test_a_step_that_does_not_fit_on_the_device_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Trainee, *_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainee, "alone", refuse)
    found = co2ssl.doctor(array(), **QUICK)
    assert found.problem is not None
    assert "a smaller --batch-size" in found.problem
    assert found.measured.augment is not None
    assert found.prediction is None


@pytest.mark.parametrize(
    "wrong", [{"sample": 0}, {"seconds": 0.0}, {"epoch": 3}, {"batch_size": -1}, {"recipe": "moko"}]
)
def test_wrong_usage(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        co2ssl.doctor(array(), **{**QUICK, **wrong})
    with pytest.raises(DataError, match="no such folder"):
        co2ssl.doctor("none/such", **QUICK)


def test_ctrl_c_within_the_loop_ends_it() -> None:
    class Pressed(ArraySource):
        """Images of which the first, once the whole loop is measured, comes with a Ctrl-C."""

        left = 10**9

        def load(self, index: int) -> Image:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return super().load(index)

    source = Pressed("pressed", array().images, None, None)

    def arm(text: str) -> None:
        if "whole loop" in text:
            source.left = 1

    with pytest.raises(KeyboardInterrupt):
        co2ssl.doctor(source, say=arm, **QUICK)


def test_the_predicted_epoch_is_that_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By processor time, which is what an idle machine would take: one process, one thread, nothing on the disk."""
    write_images(tmp_path / "images", 256, side=32)
    options: dict[str, Any] = {
        **TINY, "image_size": 32, "batch_size": 32, "queue_size": 64, "recipe": "moco-small-32+co2",
        "epochs": 4, "checkpoint_every": 4, "log_every": 10,
    }  # fmt: skip
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    predicted: list[float] = []
    measured: list[float] = []
    for attempt in range(3):
        found = co2ssl.doctor(tmp_path / "images", seconds=0.5, **options).prediction
        assert found is not None
        run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / f"run-{attempt}", quiet=True, **options)
        predicted.append(found.epoch_seconds)
        measured += epochs_of(run.folder)[1:]
        ratio = statistics.median(predicted) / statistics.median(measured)
        if 1 / 1.3 < ratio < 1.3:
            return
    pytest.fail(f"predicted {predicted} s an epoch, measured {measured}")


def epochs_of(run: Path) -> list[float]:
    """Seconds of each epoch of a run."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ends = [0.0, *(event["seconds"] for event in events if event["event"] == "epoch")]
    return [later - earlier for earlier, later in itertools.pairwise(ends)]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much a process holds")
def test_time_and_memory_beside_a_run_of_its_own(tmp_path: Path) -> None:
    """Two programs with workers, by the clock on the wall; a busy machine gets three tries."""
    write_images(tmp_path / "images", 256, side=80)
    words = [
        "--recipe", "moco-small-64+co2",
        *tiny(image_size=64, width=0.5, batch_size=64, batch_norm_groups=4, queue_size=256, epochs=3, workers=2),
    ]  # fmt: skip
    program = [sys.executable, "-m", "co2ssl"]
    ratios = []
    for attempt in range(3):
        said = subprocess.run(
            [*program, "doctor", str(tmp_path / "images"), "--json", *words], check=True, capture_output=True
        )
        found = json.loads(said.stdout)["prediction"]
        run = tmp_path / f"run-{attempt}"
        held = most_held([*program, "pretrain", str(tmp_path / "images"), "--out", str(run), "--quiet", *words])
        taken = statistics.median(epochs_of(run)[1:])
        ratios.append({"time": found["epoch_seconds"] / taken, "memory": found["host_bytes"] / held})
        if all(1 / 1.3 < ratio < 1.3 for ratio in ratios[-1].values()):
            return
    pytest.fail(f"predicted by measured: {ratios}")


def most_held(command: list[str]) -> int:
    """Most bytes that a program holds, and its children in pages that they alone have written."""
    process = subprocess.Popen(command)
    most = 0
    while process.poll() is None:
        workers = sum(in_rollup(child, "Private_Dirty") for child in children(process.pid))
        most = max(most, in_rollup(process.pid, "Rss") + workers)
        time.sleep(0.05)
    assert process.returncode == 0
    return most


def children(process: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def in_rollup(process: int, field: str) -> int:
    """Bytes of one kind of memory of a process; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
