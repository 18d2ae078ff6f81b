"""What a run measures: ``metrics.jsonl``, one JSON object a line, and the running sums behind its numbers.

Events, each with ``event`` (its kind), ``step`` (optimiser steps finished) and ``epoch`` (epochs finished, fractional
inside one):

* ``train``, every ``log_every`` steps, and ``epoch``, at the end of each: means over the rows since the last event of
  that kind: ``total``, ``instance``, ``consistency`` (nats), ``top1``, ``top5`` (pretext accuracy, 0 to 1); and
  ``learning_rate``, ``images_per_second``, ``wait_share`` (share of the time spent waiting for data, 0 to 1),
  ``seconds`` (spent training so far, over all restarts; probes and checkpoints apart).
* ``probe``: whatever the probes return.
* ``warning``: ``warning``, in words: what a probe could not measure, and why.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from co2ssl.distributed import all_reduce_sum, is_main
from co2ssl.errors import UserError
from co2ssl.losses.objective import LossSums

_PARTS = ("total", "instance", "consistency", "top1", "top5")


class MetricsLog:
    """Writes events to a file, each whole and at once. Only the main process writes; elsewhere nothing happens.

    Args:
        path: the ``metrics.jsonl`` of a run. Events that stand in it already are kept until :meth:`rewind`.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None
        self._failed = False
        if is_main():
            with self._in_words():
                # Unbuffered: what did not fit on the disk must not wait in a buffer for another attempt.
                self._file = self.path.open("ab", buffering=0)

    def write(self, event: str, values: Mapping[str, object]) -> None:
        """Append one event. NaN and infinity, which JSON does not have, become null.

        Raises:
            UserError: the disk is full, or gone.
        """
        if self._file is None:
            return
        text = json.dumps({"event": event, **{name: _finite(value) for name, value in values.items()}})
        line = text.encode() + b"\n"
        with self._in_words():
            # A disk that is nearly full takes a part of it, and complains of the rest.
            while line:
                line = line[self._file.write(line) :]

    def position(self) -> int:
        """Bytes written so far, all of them on the disk: what a checkpoint remembers.

        Raises:
            UserError: they did not all get there.
        """
        if self._file is None:
            return 0
        with self._in_words():
            os.fsync(self._file.fileno())
            return self._file.tell()

    def rewind(self, position: int) -> None:
        """Drop what was written after a checkpoint, so that a resumed run does not draw its curve twice.

        A file that is shorter than ``position`` loses at most a last line that was cut short.

        Raises:
            UserError: the file cannot be read or cut.
        """
        if self._file is None:
            return
        with self._in_words():
            kept = self.path.read_bytes()[:position]
            self._file.truncate(kept.rfind(b"\n") + 1)
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file. After a write that failed nothing more is said: that error is on its way.

        Raises:
            UserError: all writes went well, and only now it turns out that something is not on the disk.
        """
        if self._file is None:
            return
        failed_before = self._failed
        try:
            with self._in_words():
                self._file.close()
        except UserError:
            if not failed_before:
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}. Make room or permission there and resume: "
                "nothing from before the last checkpoint is lost"
            ) from error


class Tally:
    """Sums of losses and counts since the last reset. Adding never waits for the device; :meth:`read` does.

    Args:
        device: where losses live.
    """

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(_PARTS), dtype=dtype, device=device)
        self.device = device
        self._rows = 0
        self._images = 0
        self._seconds = 0.0
        self._waited = 0.0

    def add(self, sums: LossSums, *, images: int) -> None:
        """Count a micro-batch of this process."""
        parts = [getattr(sums, name).detach() for name in _PARTS]
        self._sums += torch.stack([part.to(self._sums.dtype) for part in parts])
        self._rows += sums.count
        self._images += images

    def add_time(self, seconds: float, *, waited: float) -> None:
        """Count the time of a step, and how much of it was spent waiting for data, in seconds."""
        self._seconds += seconds
        self._waited += waited

    def read(self) -> dict[str, float]:
        """The sums over all processes; every process calls it. Times are this process's own."""
        counts = torch.tensor([self._rows, self._images], dtype=self._sums.dtype, device=self._sums.device)
        *parts, rows, images = all_reduce_sum(torch.cat([self._sums, counts])).tolist()
        named = dict(zip(_PARTS, parts, strict=True))
        return {**named, "rows": rows, "images": images, "seconds": self._seconds, "waited": self._waited}

    def reset(self) -> None:
        """Begin anew."""
        self.load(None)

    def load(self, sums: Mapping[str, float] | None) -> None:
        """Go on from what :meth:`read` gave (None: from nothing). They are counted once, by the main process."""
        if sums is None or not is_main():
            sums = dict.fromkeys((*_PARTS, "rows", "images", "seconds", "waited"), 0.0)
        self._sums = torch.tensor([sums[name] for name in _PARTS], dtype=self._sums.dtype, device=self._sums.device)
        self._rows, self._images = int(sums["rows"]), int(sums["images"])
        self._seconds, self._waited = sums["seconds"], sums["waited"]


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """What an event shows of the sums that :meth:`Tally.read` gave."""
    rows, seconds = max(sums["rows"], 1.0), max(sums["seconds"], 1e-9)
    return {
        **{name: sums[name] / rows for name in _PARTS},
        "images_per_second": round(sums["images"] / seconds, 2),
        "wait_share": round(sums["waited"] / seconds, 4),
    }


def _finite(value: object) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
