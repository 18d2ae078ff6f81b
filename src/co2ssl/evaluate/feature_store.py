"""Features on the disk: a file for each (weights, images, way of looking), shared by all protocols and memory-mapped.

``FOLDER/<hash>.npy`` holds the numbers (N, F) and ``FOLDER/<hash>.json`` says what they are. Both are whole or not
there; what has been damaged since is found by its checksum.
"""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data.decoding import BadImage
from co2ssl.data.sources import Source
from co2ssl.distributed import barrier, is_main
from co2ssl.errors import UserError
from co2ssl.evaluate.feature_key import FeatureKey
from co2ssl.evaluate.features import EvaluationError, Features, features_of
from co2ssl.train.checkpoint import write_atomically
from co2ssl.train.progress import warn

MOST_TRIED = 64
"""Images without features that are tried again. A file that was replaced mostly has another size, so another key."""

_BLOCK = 1 << 24
_DAY = 86_400.0


class FeatureStore:
    """Features in a folder, by key. The main process writes; all processes read.

    Args:
        folder: made when the first features are kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, key: FeatureKey, source: Source) -> Features | None:
        """The features that lie there, mapped; None where they have to be made.

        That is where there are none, or (said in a warning) they are damaged, or an image can be read by now that
        could not when they were made. Labels are read from ``source``, not from the folder.

        Raises:
            EvaluationError: the file with this name is of other weights or images: somebody put it there.
            UserError: it is there and may not be read.
        """
        found = self._mapped(key, source)
        # One process looks, so that all do the same: the others see what is there, and are told by the caller.
        if found is not None and is_main() and _more_readable(found, source):
            warn(
                f"images of {source.name} that could not be read when {self._path(key)} was made can be read now: "
                "the features are extracted again"
            )
            return None
        return found

    def _mapped(self, key: FeatureKey, source: Source) -> Features | None:
        about, path = self._about(key), self._path(key)
        if not about.is_file():
            return None
        try:
            return _opened(path, about, key, source)
        except _DamagedError as error:
            warn(f"{path} is damaged ({error}): the features are extracted again")
            return None

    def save(self, key: FeatureKey, source: Source, batches: Iterable[tuple[Tensor, Tensor]]) -> Features:
        """Write features as they are made, and map them. Every process calls it, with the same batches.

        Args:
            key: of these features.
            source: the images.
            batches: features (n, F) and their places in the source (n,), in any order.

        Raises:
            EvaluationError: no features; one too large for float16; a process that does not see the folder.
            UserError: the folder cannot be written (disk full); nothing half done stays.
        """
        if is_main():
            self._write(key, source, batches)
        else:
            for _ in batches:
                pass
        barrier()
        found = self._mapped(key, source)
        if found is None:
            raise EvaluationError(
                f"{self._path(key)} has been written and cannot be read back by every process: "
                "give --out a folder that all of them see, or --no-cache"
            )
        return found

    def _write(self, key: FeatureKey, source: Source, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        partial = self.folder / f"{key.hash}.{os.getpid()}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_left_over()
            try:
                with partial.open("w+b") as file:
                    shape, left_out = _write_rows(file, source, batches, np.dtype(key.dtype))
                    file.flush()
                    os.fsync(file.fileno())
                checksum = _checksum(partial)
                partial.replace(self._path(key))
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write features to {self.folder}: {error.strerror or error}. Make room, give another --out, "
                "or evaluate with --no-cache"
            ) from error
        said = {"key": asdict(key), "shape": shape, "left_out": left_out, "checksum": checksum, "source": source.name}
        write_atomically(self._about(key), lambda file: file.write(json.dumps(said, indent=1).encode() + b"\n"))

    def _remove_left_over(self) -> None:
        """What was being written when a process was killed, a day ago or more."""
        for partial in self.folder.glob("*.partial"):
            if time.time() - partial.stat().st_mtime > _DAY:
                partial.unlink(missing_ok=True)

    def _path(self, key: FeatureKey) -> Path:
        return self.folder / f"{key.hash}.npy"

    def _about(self, key: FeatureKey) -> Path:
        return self.folder / f"{key.hash}.json"


class _DamagedError(Exception):
    """A file that is not what was written."""


def _opened(path: Path, about: Path, key: FeatureKey, source: Source) -> Features:
    try:
        said: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
        there, shape, checksum = said["key"], tuple(said["shape"]), said["checksum"]
        left_out = np.array(said["left_out"], dtype=np.int64)
        other = [name for name, value in asdict(key).items() if there.get(name) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _DamagedError(f"{about.name} cannot be read") from None
    if other:
        raise EvaluationError(
            f"{path} holds features of other {', '.join(other)} than its name says: it was renamed or copied there. "
            f"Remove it and {about.name}, or evaluate with --no-cache"
        )
    try:
        found = _opened_map(path)
        whole = found.shape == shape and found.dtype == np.dtype(key.dtype) and _checksum(path) == checksum
    except (FileNotFoundError, ValueError):
        raise _DamagedError("it is gone, or cut short") from None
    except OSError as error:
        raise UserError(f"cannot read the features in {path}: {error.strerror}. Evaluate with --no-cache") from error
    if not whole:
        raise _DamagedError("its content has changed")
    index = np.setdiff1d(np.arange(len(source)), left_out, assume_unique=True)
    with warnings.catch_warnings():
        # torch warns of what it might write to. No protocol does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        features = torch.from_numpy(found)
    return features_of(source, features, torch.from_numpy(index))


def _opened_map(path: Path) -> NDArray[Any]:
    """The numbers, mapped privately and writable: whoever writes to them changes a copy."""
    try:
        found: NDArray[Any] = np.lib.format.open_memmap(path, mode="c")
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        # What might be copied is counted as memory, and the file is larger than that: it can be read all the same.
        found = np.lib.format.open_memmap(path, mode="r")
    return found


def _more_readable(found: Features, source: Source) -> bool:
    """Whether an image without features can be read by now; of many, some are tried."""
    left_out = np.setdiff1d(np.arange(len(source)), found.index.numpy(), assume_unique=True)
    some = np.linspace(0, len(left_out) - 1, min(len(left_out), MOST_TRIED)).astype(np.int64)
    for place in left_out[some].tolist():
        try:
            source.load(place)
        except BadImage:
            continue
        return True
    return False


def _write_rows(
    file: BinaryIO, source: Source, batches: Iterable[tuple[Tensor, Tensor]], dtype: np.dtype[Any]
) -> tuple[tuple[int, int], list[int]]:
    """Fill an empty file with the header and rows of an array; its shape, and the images that it has no row of.

    Written, not mapped: a full disk is then an error that can be told, and not a signal that ends the process.
    """
    start, width = 0, 0
    seen = np.zeros(len(source), dtype=np.bool_)
    for features, index in batches:
        rows, places = _converted(features, dtype, source), index.numpy()
        if not start:
            width = rows.shape[1]
            start = _write_header(file, (len(source), width), dtype)
        runs = np.flatnonzero(np.diff(places) != 1) + 1
        for run, where in zip(np.split(rows, runs), np.split(places, runs), strict=True):
            if len(where):
                file.seek(start + int(where[0]) * width * dtype.itemsize)
                file.write(np.ascontiguousarray(run).data)
        seen[places] = True
    if not start:
        raise EvaluationError(f"{source.name} has no images to measure with")
    left_out = np.flatnonzero(~seen).tolist()
    shape = (len(source) - len(left_out), width)
    if left_out:
        _close_up(file, np.flatnonzero(seen), start=start, row_bytes=width * dtype.itemsize)
        if _write_header(file, shape, dtype) != start:
            raise RuntimeError("numpy's header of a shorter array has another length")
    return shape, left_out


def _converted(features: Tensor, dtype: np.dtype[Any], source: Source) -> NDArray[Any]:
    if dtype == np.float16 and bool((features.abs() > np.finfo(np.float16).max).any()):
        raise EvaluationError(
            f"features of {source.name} reach {float(features.abs().max()):.3g}, more than float16 holds: "
            "keep them as float32 (--feature-dtype float32)"
        )
    return features.numpy().astype(dtype, copy=False)


def _write_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    """Write the header of an array at the start of the file; its length. numpy leaves room in it for more rows."""
    file.seek(0)
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.tell()


def _close_up(file: BinaryIO, kept: NDArray[np.int64], *, start: int, row_bytes: int) -> None:
    """Move the rows ``kept`` (ascending) to the front, and cut the file behind them."""
    for place, row in enumerate(kept.tolist()):
        if place != row:
            file.seek(start + row * row_bytes)
            content = file.read(row_bytes)
            file.seek(start + place * row_bytes)
            file.write(content)
    file.truncate(start + len(kept) * row_bytes)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
