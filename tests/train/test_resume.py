"""A run that was stopped anywhere and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from co2ssl.data.batch import Batch
from co2ssl.encoders.batch_norm import BatchNormKind, average_running_statistics, convert_batch_norm
from co2ssl.train.checkpoint import CheckpointError
from co2ssl.train.loop import Rhythm
from co2ssl.train.stop import Interrupted
from tests.processes import ProcessPair
from tests.train.fakes import TinyLoader, TinyMethod, events, fit, folder_of

TIMED = ("seconds", "images_per_second", "wait_share")


class StoppedLoader(TinyLoader):
    """Ctrl-C arrives while the batch of step ``stop_at`` is being made."""

    def __init__(self, stop_at: int, *, shares: Sequence[int] = ()) -> None:
        super().__init__(shares=shares)
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


def test_a_probe_that_crashes_costs_nothing_that_was_trained(tmp_path: Path) -> None:
    def crashing(step: int, encoder: nn.Module) -> dict[str, float | str]:
        if step == 12:
            raise ZeroDivisionError
        return probe(step, encoder)

    straight = fit(tmp_path / "straight", epochs=2, probes=[probe])
    rhythm = Rhythm(log_every=4, probe_every=1, checkpoint_every=5)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "parts", epochs=2, probes=[crashing], rhythm=rhythm)
    assert [path.name for path in folder_of(tmp_path / "parts").saved()][-1] == "step-000012.ckpt"
    resumed = fit(tmp_path / "parts", epochs=2, probes=[probe], rhythm=rhythm, resume=True)
    assert resumed[0].committed == []
    assert_same(straight, resumed)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "straight")


def _straight_and_resumed(folder: str, shares: tuple[int, int], stop_at: int) -> Tensor:
    """Whether both are the same is found out here; returned are this process's statistics."""
    whole, parts = Path(folder) / "straight", Path(folder) / "parts"
    straight = fit(whole, epochs=2, probes=[probe], loader=TinyLoader(shares=shares))
    with pytest.raises(Interrupted):
        fit(parts, epochs=2, probes=[probe], loader=StoppedLoader(stop_at, shares=shares))
    resumed = fit(parts, epochs=2, probes=[probe], loader=TinyLoader(shares=shares), resume=True)
    assert resumed[0].begun == [1]
    assert_same(straight, resumed)
    own = straight[0].get_buffer("encoder.backbone.1.running_var").clone()
    for method, _, _ in (straight, resumed):
        average_running_statistics(method.encoder)
    assert_same(straight, resumed)
    return own


@pytest.mark.parametrize("shares", [(2, 2), (3, 1)])
@pytest.mark.parametrize("stop_at", [3, 5])
def test_two_processes_stopped_and_resumed(
    tmp_path: Path, two_processes: ProcessPair, shares: tuple[int, int], stop_at: int
) -> None:
    """Each has statistics of its own rows, and goes on from its own."""
    first, second = two_processes(_straight_and_resumed, str(tmp_path), shares, stop_at)
    assert not torch.equal(first, second)
    for there, here in zip(untimed(tmp_path / "parts"), untimed(tmp_path / "straight"), strict=True):
        # Sums over processes are added up in another order.
        words, numbers = ({name for name in here if isinstance(here[name], str) == kind} for kind in (True, False))
        assert {name: there[name] for name in words} == {name: here[name] for name in words}
        assert {name: there[name] for name in numbers} == pytest.approx(
            {name: here[name] for name in numbers}, rel=1e-9
        )
        assert there.keys() == here.keys()


def of_kind(kind: BatchNormKind) -> TinyMethod:
    torch.manual_seed(3)
    method = TinyMethod(dropout=0.0)
    convert_batch_norm(method.encoder, kind, groups=2 if kind == "split" else 1)
    return method.double()


def _first_epoch(folder: str, kind: BatchNormKind) -> None:
    fit(Path(folder), epochs=1, method=of_kind(kind), loader=TinyLoader(dtype=torch.float64))


@pytest.mark.parametrize("kind", ["plain", "shuffle"])
def test_another_number_of_processes_is_refused_where_it_is_another_run(
    tmp_path: Path, two_processes: ProcessPair, kind: BatchNormKind
) -> None:
    two_processes(_first_epoch, str(tmp_path), kind)
    written = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"with 2 processes, .* with 1 process it would .* Resume it with 2 proc"):
        fit(tmp_path, epochs=2, method=TinyMethod(dropout=0.0).double(), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == written


@pytest.mark.parametrize("kind", ["sync", "split"])
def test_another_number_of_processes_is_the_same_run_where_batch_norm_is_of_the_global_batch(
    tmp_path: Path, two_processes: ProcessPair, kind: BatchNormKind
) -> None:
    loader = TinyLoader(dtype=torch.float64)
    straight, _, _ = fit(tmp_path / "one", epochs=2, method=of_kind(kind), loader=loader)
    (tmp_path / "two").mkdir()
    two_processes(_first_epoch, str(tmp_path / "two"), kind)
    resumed, _, _ = fit(tmp_path / "two", epochs=2, method=of_kind(kind), loader=loader, resume=True)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_of_before_processes_were_counted_is_taken(tmp_path: Path) -> None:
    straight = fit(tmp_path / "straight", epochs=2)
    fit(tmp_path / "parts", epochs=1)
    folder = folder_of(tmp_path / "parts")
    saved = folder.load()
    assert saved is not None
    assert saved.pop("world_size") == 1
    assert saved.pop("others") == {}
    folder.save(saved, step=6)
    assert_same(straight, fit(tmp_path / "parts", epochs=2, resume=True))


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
