"""How much memory a run takes, watched while it runs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_EVERY_SECONDS = 0.01
# The system walks a worker's page table to answer: too long to ask as often as for one number.
_WORKERS_EVERY = 20


class PeakMemory:
    """The most memory this process and its workers held at once, while the block runs.

    On Linux the resident set of this process, and of each worker the pages that it has written and shares with nobody:
    forked workers have the rest from this process, where it is counted once. Elsewhere the system does not say.

    Args:
        device: of which the allocated memory is watched too, where it is a CUDA device.

    Attributes:
        host_bytes: of this machine's memory; None where the system does not say.
        device_bytes: allocated on the device; None where it is not a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.host_bytes: int | None = None
        self.device_bytes: int | None = None
        self._device = device
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._own = 0
        self._workers = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if _resident_bytes() is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.ident is not None:
            self._done.set()
            self._thread.join()
            self.host_bytes = self._own + self._workers
        if self._device.type == "cuda":
            self.device_bytes = torch.cuda.max_memory_allocated(self._device)

    def _watch(self) -> None:
        number = 0
        while True:
            self._own = max(self._own, _resident_bytes() or 0)
            if number % _WORKERS_EVERY == 0:
                workers = [process.pid for process in multiprocessing.active_children()]
                self._workers = max(self._workers, sum(_private_bytes(worker) for worker in workers if worker))
            number += 1
            if self._done.wait(_EVERY_SECONDS):
                return


def _resident_bytes() -> int | None:
    """The resident set of this process; None where the system does not say (it is Linux that does)."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _private_bytes(process: int) -> int:
    """Bytes that only this process has written; 0 where it has ended, or the system does not say."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))
