"""Where a run stands, and how that goes into a checkpoint and comes back, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from co2ssl.distributed import gather
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
    """What a checkpoint holds; every process calls it."""
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
    }


def restore(saved: Mapping[str, Any], state: State, method: nn.Module, optimizer: Optimizer, log: MetricsLog) -> None:
    """Put everything back as :func:`snapshot` found it.

    Raises:
        CheckpointError: the weights or the optimiser's state do not fit.
    """
    try:
        method.load_state_dict(saved["method"])
        optimizer.load_state_dict(saved["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit this {type(method).__name__}: {error}") from error
    state.position = Position(**saved["position"])
    state.seconds = saved["seconds"]
    state.window.load(saved["window"])
    state.epoch.load(saved["epoch"])
    log.rewind(saved["metrics_bytes"])
    torch.set_rng_state(saved["random"]["cpu"])
    if state.window.device.type == "cuda" and saved["random"]["cuda"] is not None:
        torch.cuda.set_rng_state(saved["random"]["cuda"], state.window.device)
