"""Looking at the encoder between epochs, so that training goes on as if nobody had looked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import nn

from co2ssl.data.workers import WorkerError
from co2ssl.distributed import barrier, is_main
from co2ssl.encoders.batch_norm import averaged_statistics
from co2ssl.errors import UserError
from co2ssl.train.log import MetricsLog
from co2ssl.train.out_of_memory import briefly, is_out_of_memory
from co2ssl.train.progress import Progress
from co2ssl.train.stop import Interrupted

Probe: TypeAlias = Callable[[int, nn.Module], Mapping[str, float | str]]


class Probing:
    """The probes of a run, and where goes what they find.

    Args:
        probes: each gets the steps finished and the encoder.
        every: epochs between two measurements, and one at the end; 0: never.
        device: where the encoder is.
        log: gets a ``probe`` event of all their values, a ``warning`` of what one of them could not measure.
        progress: says the warnings.
    """

    def __init__(
        self, probes: Sequence[Probe], *, every: int, device: torch.device, log: MetricsLog, progress: Progress
    ) -> None:
        self.probes = probes
        self.every = every
        self.device = device
        self.log = log
        self.progress = progress
        self._failed: set[int] = set()

    def due(self, epoch: int, *, last: bool) -> bool:
        """Whether to measure after ``epoch`` epochs."""
        return bool(self.probes) and self.every > 0 and (last or epoch % self.every == 0)

    def measure(self, encoder: nn.Module, *, step: int, epoch: int) -> None:
        """Let the probes look at the encoder. Every process calls it; the main one measures, the others wait.

        The encoder is left in evaluation mode where it was measured.

        Raises:
            Interrupted: a probe was stopped from outside.
            WorkerError: its workers died. Any other error of a probe that is neither a ``UserError`` nor a lack of
                memory, which become warnings, is raised as it is.
        """
        with averaged_statistics(encoder):
            if is_main():
                self._measure_here(encoder, step, {"step": step, "epoch": epoch})
        barrier()

    def _measure_here(self, encoder: nn.Module, step: int, when: Mapping[str, object]) -> None:
        values: dict[str, float | str] = {}
        encoder.eval()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for place, probe in enumerate(self.probes):
                try:
                    values.update(probe(step, encoder))
                except (Interrupted, WorkerError):
                    raise
                except (UserError, RuntimeError) as error:
                    if not isinstance(error, UserError) and not is_out_of_memory(error):
                        raise
                    self._warn(place, error, when)
        if values:
            self.log.write("probe", {**when, **values})
        if "warning" in values:
            self.progress.message(f"warning: {values['warning']}")

    def _warn(self, place: int, error: Exception, when: Mapping[str, object]) -> None:
        """Write down what the probe at this place could not measure, and say it the first time."""
        why = str(error) if isinstance(error, UserError) else briefly(error)
        text = f"something could not be measured after epoch {when['epoch']}, and training goes on: {why}"
        self.log.write("warning", {**when, "warning": text})
        if place not in self._failed:
            self._failed.add(place)
            self.progress.warning(text)
