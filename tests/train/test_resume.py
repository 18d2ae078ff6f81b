"""A run that was stopped anywhere and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from co2ssl.data.batch import Batch
from co2ssl.train.checkpoint import CheckpointError
from co2ssl.train.loop import Rhythm
from co2ssl.train.stop import Interrupted
from tests.train.fakes import TinyLoader, TinyMethod, events, fit, folder_of

TIMED = ("seconds", "images_per_second", "wait_share")


class StoppedLoader(TinyLoader):
    """Ctrl-C arrives while the batch of step ``stop_at`` is being made."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, first_step=first_step):
            if batch.step == self.stop_at:
                signal.raise_signal(signal.SIGINT)
            yield batch


def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
    return {"weight": float(next(encoder.parameters()).detach().sum())}


def untimed(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name not in TIMED} for event in events(run)]


def assert_same(
    one: tuple[TinyMethod, torch.optim.Optimizer, object], other: tuple[TinyMethod, torch.optim.Optimizer, object]
) -> None:
    assert one[2] == other[2]
    for name, value in one[0].state_dict().items():
        assert torch.equal(other[0].state_dict()[name], value), name
    states = [optimizer.state_dict()["state"] for optimizer in (one[1], other[1])]
    assert states[0].keys() == states[1].keys()
    for key, values in states[0].items():
        for name, value in values.items():
            assert torch.equal(states[1][key][name], value), (key, name)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_two_epochs_are_one_and_one_resumed(tmp_path: Path, optimizer: str) -> None:
    straight = fit(tmp_path / "straight", epochs=2, optimizer=optimizer, probes=[probe])
    fit(tmp_path / "parts", epochs=1, optimizer=optimizer, probes=[probe])
    resumed = fit(tmp_path / "parts", epochs=2, optimizer=optimizer, probes=[probe], resume=True)
    assert_same(straight, resumed)
    # The first part ended with an event of its own, at the last step of what it was asked for.
    parts = [event for event in untimed(tmp_path / "parts") if event["event"] != "train"]
    assert parts == [event for event in untimed(tmp_path / "straight") if event["event"] != "train"]


@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 9, 11])
def test_stopped_within_an_epoch_and_resumed(tmp_path: Path, stop_at: int) -> None:
    """Steps 5 and 11 are the last of their epochs; step 4 stands between two train events."""
    straight = fit(tmp_path / "straight", epochs=2, probes=[probe])
    with pytest.raises(Interrupted):
        fit(tmp_path / "parts", epochs=2, probes=[probe], loader=StoppedLoader(stop_at))
    assert [path.name for path in folder_of(tmp_path / "parts").saved()][-1] == f"step-{stop_at + 1:06d}.ckpt"
    resumed = fit(tmp_path / "parts", epochs=2, probes=[probe], resume=True)
    assert_same(straight, resumed)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "straight")
    assert [epoch for epoch in resumed[0].begun if epoch * 6 <= stop_at and epoch] == []


def test_resumed_with_micro_batches(tmp_path: Path) -> None:
    straight = fit(tmp_path / "straight", epochs=2, accumulate=2)
    with pytest.raises(Interrupted):
        fit(tmp_path / "parts", epochs=2, accumulate=2, loader=StoppedLoader(8))
    assert_same(straight, fit(tmp_path / "parts", epochs=2, accumulate=2, resume=True))


KILLED = """
import os, sys
from pathlib import Path
from tests.train.fakes import fit
from co2ssl.train.loop import Rhythm

rename = os.replace

def replace(partial, target):
    if target.name == "step-000011.ckpt":
        os.kill(os.getpid(), 9)
    rename(partial, target)

os.replace = replace
fit(Path(sys.argv[1]), epochs=2, rhythm=Rhythm(log_every=1, checkpoint_minutes=0.0))
"""


def test_killed_while_a_checkpoint_is_written_and_resumed(tmp_path: Path) -> None:
    """A checkpoint after every step, and SIGKILL between the write and the rename of the eleventh.

    The tenth is whole; the metrics are cut back to it, with a half-written line put in their way.
    """
    rhythm = Rhythm(log_every=1, checkpoint_minutes=0.0)
    straight = fit(tmp_path / "straight", epochs=2, rhythm=rhythm)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "parts")]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    folder = tmp_path / "parts" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-000009.ckpt",
        "step-000010.ckpt",
        "step-000011.ckpt.partial",
    ]
    assert [event["step"] for event in events(tmp_path / "parts")][-1] == 11
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 12, "ep')
    assert_same(straight, fit(tmp_path / "parts", epochs=2, rhythm=rhythm, resume=True))
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "straight")
    assert not list(folder.glob("*.partial"))


def test_seconds_add_up_over_restarts(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, epochs=2, loader=StoppedLoader(7))
    saved = folder_of(tmp_path).load()
    assert saved is not None
    assert saved["seconds"] > 0
    fit(tmp_path, epochs=2, resume=True)
    seconds = [event["seconds"] for event in events(tmp_path) if "seconds" in event]
    assert seconds == sorted(seconds)
    assert seconds[-1] > saved["seconds"]


def test_a_finished_run_resumed_does_nothing(tmp_path: Path) -> None:
    once = fit(tmp_path, epochs=2)
    written = (tmp_path / "metrics.jsonl").read_bytes()
    again = fit(tmp_path, epochs=2, resume=True)
    assert_same(once, again)
    assert again[0].begun == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    other = TinyMethod()
    other.encoder.head = nn.Linear(32, 7)
    with pytest.raises(CheckpointError, match="does not fit this TinyMethod"):
        fit(tmp_path, epochs=2, method=other, resume=True)
