"""Checkpoints that survive whatever stops a run, and never run code when they are read."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import nn

from co2ssl.distributed import is_main
from co2ssl.errors import UserError
from co2ssl.train.progress import warn

KEPT = 2
"""Checkpoints that stay: the last, and the one before it in case the last is found damaged."""
_NAME = re.compile(r"step-(\d+)\.ckpt")
_PARTIAL = ".partial"


class CheckpointError(UserError):
    """A checkpoint that cannot be written, read, or used for this run."""


class CheckpointFolder:
    """The last checkpoints of one run, ``step-000123.ckpt``. Only the main process writes.

    Args:
        path: the folder; made when it is missing. What an interrupted write left in it is removed.
        architecture: what the weights are weights of, in words, e.g. "moco, resnet18, width 0.5".
        config_hash: of every setting that must not change within a run.

    Raises:
        CheckpointError: the folder cannot be made.
    """

    def __init__(self, path: str | Path, *, architecture: str, config_hash: str) -> None:
        self.path = Path(path)
        self.architecture = architecture
        self.config_hash = config_hash
        if is_main():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                for left_over in self.path.glob(f"*{_PARTIAL}"):
                    left_over.unlink()
            except OSError as error:
                raise CheckpointError(f"cannot use {self.path} for checkpoints: {error.strerror or error}") from error

    @property
    def run(self) -> Path:
        """The run folder that this is a part of."""
        return self.path.parent

    def saved(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        named = [(match, entry) for entry in self.path.glob("*.ckpt") if (match := _NAME.fullmatch(entry.name))]
        return [entry for _, entry in sorted((int(match[1]), entry) for match, entry in named)]

    def save(self, contents: Mapping[str, Any], *, step: int) -> Path:
        """Write a checkpoint, whole or not at all, and remove all but the last two.

        Args:
            contents: tensors, numbers, strings, and dicts and lists of them.
            step: optimiser steps finished.

        Raises:
            CheckpointError: it cannot be written (disk full); the one before is untouched.
        """
        target = self.path / f"step-{step:06d}.ckpt"
        if not is_main():
            return target
        stamped = {"architecture": self.architecture, "config_hash": self.config_hash, **contents}
        write_atomically(target, lambda file: torch.save(stamped, file))
        for old in self.saved()[:-KEPT]:
            old.unlink()
        return target

    def load(self) -> dict[str, Any] | None:
        """The last whole checkpoint, on the CPU; None where the run has none.

        A damaged one is passed over with a warning, in favour of the one before.

        Raises:
            CheckpointError: it holds more than data (refused, nothing of it is run); it is of another
                architecture or of a run with other settings; all there are are damaged.
        """
        paths = self.saved()
        for path in reversed(paths):
            contents = read_checkpoint(path)
            if contents is not None:
                self._check(path, contents)
                return contents
            warn(f"{path} is damaged (cut short, or changed on the disk): going back to the one before")
        if paths:
            raise CheckpointError(f"all checkpoints in {self.path} are damaged: start the run again in a new folder")
        return None

    def _check(self, path: Path, contents: Mapping[str, Any]) -> None:
        wanted = {"architecture": self.architecture, "config_hash": self.config_hash}
        names = {"architecture": "the architecture", "config_hash": "a run with the settings (hash)"}
        for key, here in wanted.items():
            there = contents.get(key)
            if there != here:
                raise CheckpointError(
                    f"{path} is of {names[key]} {there!r}, but this run has {here!r}: "
                    "resume with the run's own config.yaml, or give another --out to start anew"
                )


def read_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """The contents of a checkpoint file, on the CPU, or None where it is damaged. No code in it is run.

    Raises:
        CheckpointError: it cannot be opened, or it is a pickle with more in it than tensors and plain values.
    """
    path = Path(path)
    refusal = f"{path} holds more than data (a pickle that would run code): refused, not run; use only co2ssl's own"
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start == b"\x80\x02" or (start[:1] == b"\x80" and start[1:] <= b"\x05"):
            raise CheckpointError(refusal)
        if not _is_whole(path):
            return None
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(refusal) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except RuntimeError:
        # A whole archive without the records of a checkpoint.
        return None
    return contents if isinstance(contents, dict) else None


def save_backbone(path: str | Path, backbone: nn.Module) -> None:
    """Write a backbone's weights as safetensors, under their own (torchvision's) names, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()}
    content = safetensors.torch.save(weights)
    write_atomically(Path(path), lambda file: file.write(content))


def write_atomically(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that at every instant either the old or the new one is there, whole.

    Written beside, forced to the disk, renamed, and the folder's entry forced to the disk.

    Raises:
        CheckpointError: it cannot be written; the old file, if any, is untouched.
    """
    partial = target.with_name(target.name + _PARTIAL)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        # torch reports a write that failed as RuntimeError.
        with suppress(OSError):
            # A file system that has become read-only lets nothing be removed either.
            partial.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(
            f"cannot write {target} ({reason}): what was there before is untouched; make room on the disk and resume"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(path: Path) -> bool:
    """Whether a file is a zip archive (what torch.save writes) whose every entry has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False
