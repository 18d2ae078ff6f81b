"""Where a long measurement stands, in one file beside its result: the same command goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from co2ssl.distributed import all_reduce_sum, is_main, world_size
from co2ssl.train.checkpoint import read_checkpoint, write_atomically
from co2ssl.train.progress import warn


class Saved:
    """A state on the disk that belongs to one measurement.

    Args:
        path: the file; its folder is made when something is saved.
        key: says which measurement: weights, images and settings. A state of another one is not used.
    """

    def __init__(self, path: str | Path, *, key: str) -> None:
        self.path = Path(path)
        self.key = key

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU; None where there is nothing to go on from. Every process calls it.

        Raises:
            CheckpointError: the file holds more than data.
        """
        contents = self._read()
        found = int(all_reduce_sum(torch.tensor(int(contents is not None))))
        # All of them go on, or none: one that sees another folder than the others would wait for ever.
        return contents if found == world_size() else None

    def save(self, contents: Mapping[str, Any]) -> None:
        """Write a state (tensors, numbers, strings, dicts and lists of them), whole or not at all.

        Raises:
            CheckpointError: it cannot be written; the one before is untouched.
        """
        if is_main():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda file: torch.save({"key": self.key, **contents}, file))

    def remove(self) -> None:
        """The measurement is over."""
        if is_main():
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        contents = read_checkpoint(self.path)
        if contents is None:
            warn(f"{self.path} is damaged: the measurement begins anew")
            return None
        if contents.get("key") != self.key:
            warn(f"{self.path} is of other weights, images or settings: the measurement begins anew")
            return None
        return contents
