"""Where a run stands, and how that goes into a checkpoint and comes back, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from co2ssl.distributed import gather, rank, world_size
from co2ssl.encoders.batch_norm import depends_on_processes, running_statistics, set_running_statistics
from co2ssl.errors import UserError
from co2ssl.losses.objective import LossSums
from co2ssl.train.checkpoint import CheckpointError
from co2ssl.train.log import MetricsLog, Tally

_NEVER = torch.iinfo(torch.int64).max


class DivergedError(UserError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: epochs finished.
        step_in_epoch: optimiser steps finished in the epoch that runs; all of them where only its end (its event,
            its probes) is left to do.
        step: optimiser steps finished since the beginning.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0

    def after_step(self) -> Position:
        """One optimiser step on."""
        return Position(self.epoch, self.step_in_epoch + 1, self.step + 1)

    def after_epoch(self) -> Position:
        """At the start of the next epoch."""
        return Position(self.epoch + 1, 0, self.step)


class State:
    """All of a run that is neither the method's nor the optimiser's.

    Attributes:
        position: how far it has come.
        seconds: spent training, over all restarts.
        window: losses since the last ``train`` event.
        epoch: losses since the epoch began.
    """

    def __init__(self, device: torch.device) -> None:
        self.position = Position()
        self.seconds = 0.0
        self.window = Tally(device)
        self.epoch = Tally(device)
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)

    def count(self, sums: LossSums, *, images: int) -> None:
        """Add a micro-batch of the step that is being taken. Nothing here waits for the device."""
        self.window.add(sums, images=images)
        self.epoch.add(sums, images=images)
        now = self._first_bad.clamp(max=self.position.step + 1)
        self._first_bad = torch.where(torch.isfinite(sums.total.detach()), self._first_bad, now)

    def finish_step(self, seconds: float, *, waited: float) -> None:
        """The step is taken; it took ``seconds``, ``waited`` of them waiting for data."""
        self.window.add_time(seconds, waited=waited)
        self.epoch.add_time(seconds, waited=waited)
        self.seconds += seconds
        self.position = self.position.after_step()

    def first_bad_step(self) -> int | None:
        """The first step whose loss was NaN or infinite on any process; every process calls it, and waits."""
        first = int(gather(self._first_bad.reshape(1)).min())
        return None if first == _NEVER else first


def snapshot(state: State, method: nn.Module, optimizer: Optimizer, log: MetricsLog) -> dict[str, Any]:
    """What a checkpoint holds; every process calls it.

    ``method`` and ``random`` are those of the first process, and ``others`` has by rank what differs on each of the
    rest: the running statistics of batch norm, which are of a process's own rows, and the state of random numbers.
    They are kept apart, not averaged, so that a run does not depend on when a checkpoint was written.
    """
    device = state.window.device
    return {
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "position": asdict(state.position),
        "seconds": state.seconds,
        "window": state.window.read(),
        "epoch": state.epoch.read(),
        "metrics_bytes": log.position(),
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        },
        "world_size": world_size(),
        "others": _others(method, device),
    }


def restore(saved: Mapping[str, Any], state: State, method: nn.Module, optimizer: Optimizer, log: MetricsLog) -> None:
    """Put everything back as :func:`snapshot` found it, on each process what was its own.

    Raises:
        CheckpointError: the weights or the optimiser's state do not fit; another number of processes, with which the
            run would be another.
    """
    # Older checkpoints do not say.
    processes = int(saved.get("world_size", world_size()))
    if processes != world_size() and depends_on_processes(method):
        raise CheckpointError(
            f"this run was trained with {_counted(processes)}, and its batch norm takes statistics over the images of "
            f"one: with {_counted(world_size())} it would be another run. Resume it with {_counted(processes)}, or "
            "start a new run with --out"
        )
    random, others = saved["random"], saved.get("others", {})
    try:
        method.load_state_dict(saved["method"])
        optimizer.load_state_dict(saved["optimizer"])
        if processes != world_size():
            # The groups of all processes are the same batch, cut otherwise now: each goes on from their mean.
            every = [running_statistics(method), *(other["running"] for other in others.values())]
            set_running_statistics(method, torch.stack(every).mean(dim=0))
        elif rank() in others:
            random = others[rank()]
            set_running_statistics(method, random["running"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit this {type(method).__name__}: {error}") from error
    state.position = Position(**saved["position"])
    state.seconds = saved["seconds"]
    state.window.load(saved["window"])
    state.epoch.load(saved["epoch"])
    log.rewind(saved["metrics_bytes"])
    # A clone is laid out as a generator reads it; what was loaded need not be.
    torch.set_rng_state(random["cpu"].clone())
    if state.window.device.type == "cuda" and random.get("cuda") is not None:
        torch.cuda.set_rng_state(random["cuda"], state.window.device)


def _others(method: nn.Module, device: torch.device) -> dict[int, dict[str, Tensor]]:
    """By rank, from 1 on, what each process has for itself: ``running`` (S,), and the random states."""
    if world_size() == 1:
        return {}
    own = {"running": running_statistics(method), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    # A network without batch norm has no statistics, and nothing cannot be sent.
    every = {
        name: gather(value.unsqueeze(0)) if value.numel() else value.expand(world_size(), 0)
        for name, value in own.items()
    }
    # Clones: a view of the rows of all would be saved with all of them.
    return {place: {name: rows[place].clone() for name, rows in every.items()} for place in range(1, world_size())}


def _counted(processes: int) -> str:
    return f"{processes} process{'' if processes == 1 else 'es'}"
