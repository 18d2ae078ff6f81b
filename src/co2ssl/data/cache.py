"""Every image decoded once into one memory-mapped file, so that no image file is read twice."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data.decoding import BadImage
from co2ssl.data.pixels import Image
from co2ssl.data.sources import DataError, Source
from co2ssl.data.workers import Workers

CHUNK = 64
"""Images that a worker decodes at once, where they are small."""
CHUNK_BYTES = 64_000_000
"""Bytes of pixels that it decodes at once, as far as a sample tells: shared memory has to hold two chunks a worker."""
SAMPLE = 32
"""Images that are decoded first, to tell how much room all of them need."""
SPARE = 1.1
"""Room asked for, as a multiple of the estimate: the sample may be smaller than the rest."""

_NONE = np.empty(0, dtype=np.uint8)

# What a fingerprint of this package's sources looks like.
_OURS = re.compile(r"[0-9a-f]{16}")


def cached(source: Source, folder: Path, *, workers: int, say: Callable[[str], None]) -> Source:
    """The same images, read from a file of decoded pixels in ``folder``, which is made where it is not there yet.

    The file belongs to the source's fingerprint, which for folders covers names, not contents: after images were
    replaced under their old names, delete it. A build that was interrupted begins again. Images that cannot be read
    are kept as such, with the reason.

    Args:
        source: the images.
        folder: where the two files go: pixels, and where in them each image lies.
        workers: processes that decode; 0 does it in this one.
        say: is told how much room it takes.

    Raises:
        DataError: the disk has no room for the decoded images, or writing failed.
    """
    name = _name(source.fingerprint())
    pixels, places = folder / f"{name}.bin", folder / f"{name}.npz"
    if not (pixels.is_file() and places.is_file()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = _sampled_sizes(source)
            _require_room(source, sizes, folder, say)
            _build(source, pixels, places, workers, at_once=_images_at_once(sizes))
        except OSError as error:
            raise DataError(
                f"cannot write the decoded images to {folder} ({error.strerror or error}): "
                "make room or permission there, or run without --cache"
            ) from error
    return CachedSource(source, pixels, places)


class CachedSource:
    """A source whose pixels come from a memory map; everything else is as the source has it."""

    def __init__(self, source: Source, pixels: Path, places: Path) -> None:
        self.source = source
        self.name = source.name
        self.classes = source.classes
        self.labels = source.labels
        self._path = pixels
        self._mapped: NDArray[np.uint8] | None = None
        with np.load(places, allow_pickle=False) as kept:
            self._start: NDArray[np.int64] = kept["start"]
            self._shape: NDArray[np.int64] = kept["shape"]
            self._bad: NDArray[np.int64] = kept["bad"]
            self._reason: NDArray[np.str_] = kept["reason"]

    def __getstate__(self) -> dict[str, object]:
        """Without the map: a process that is handed a copy opens the file itself."""
        return {**self.__dict__, "_mapped": None}

    def __len__(self) -> int:
        """How many images."""
        return len(self.source)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        place = int(np.searchsorted(self._bad, index))
        if place < len(self._bad) and self._bad[place] == index:
            # It was bad when the cache was made; whether it is today says the file.
            return self.source.load(index)
        if self._mapped is None:
            # Copy on write: torch warns of arrays that cannot be written to, and the file stays as it is.
            self._mapped = np.memmap(self._path, dtype=np.uint8, mode="c")
        height, width = self._shape[index].tolist()
        start = int(self._start[index])
        # A plain view: memmap objects look themselves up in Python at every slice.
        return self._mapped.view(np.ndarray)[start : start + 3 * height * width].reshape(height, width, 3)

    def describe(self, index: int) -> str:
        """What the source calls it."""
        return self.source.describe(index)

    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint()


class _Decoded(NamedTuple):
    pixels: Tensor  # flat uint8
    shape: NDArray[np.int64]  # (n, 2): 0 x 0 for a bad image
    reasons: list[str]  # "" for a good one


@dataclass(frozen=True)
class _Decoder:
    """Decodes some images; runs in a worker."""

    source: Source

    def __call__(self, task: NDArray[np.int64]) -> _Decoded:
        images = [_load(self.source, index) for index in task.tolist()]
        flat = [_NONE if isinstance(image, str) else np.ascontiguousarray(image).reshape(-1) for image in images]
        return _Decoded(
            torch.from_numpy(np.concatenate(flat)),
            np.array([(0, 0) if isinstance(image, str) else image.shape[:2] for image in images], dtype=np.int64),
            [image if isinstance(image, str) else "" for image in images],
        )


def _load(source: Source, index: int) -> Image | str:
    """The image, or why there is none."""
    try:
        return source.load(index)
    except BadImage as error:
        return error.reason


def _name(fingerprint: str) -> str:
    """What the files are called: by the fingerprint, or by a hash of one that someone's own source makes up."""
    if not _OURS.fullmatch(fingerprint):
        fingerprint = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"images-{fingerprint}"


def _sampled_sizes(source: Source) -> list[int]:
    """Bytes of pixels of a few images, spread over all; 0 of one that cannot be read."""
    sample = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64))
    return [0 if isinstance(image, str) else image.size for image in (_load(source, int(i)) for i in sample)]


def _images_at_once(sizes: Sequence[int]) -> int:
    """How many images a worker decodes at once, where the largest of all is as large as the largest of some."""
    return max(1, min(CHUNK, CHUNK_BYTES // max(1, *sizes)))


def _require_room(source: Source, sizes: Sequence[int], folder: Path, say: Callable[[str], None]) -> None:
    """Raise DataError where the disk would not hold the pixels of all images, judged by the sizes of a few of them."""
    needed = int(np.mean(sizes) * len(source))
    free = shutil.disk_usage(folder).free
    if SPARE * needed > free:
        raise DataError(
            f"the decoded images of {source.name} need about {needed / 1e9:.1f} GB in {folder}, where "
            f"{free / 1e9:.1f} GB are free: make room, or run without --cache"
        )
    say(f"decoding {len(source):,} images once: about {needed / 1e9:.2f} GB in {folder}")


def _build(source: Source, pixels: Path, places: Path, workers: int, *, at_once: int) -> None:
    """Write the pixels, then where they lie: the second file says that the first is whole."""
    partial = pixels.with_name(pixels.name + ".partial")
    places.unlink(missing_ok=True)
    with partial.open("wb") as file:
        shapes, reasons = _write_pixels(source, file, workers, at_once)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, pixels)
    sizes = 3 * shapes.prod(axis=1)
    bad = np.array([index for index, reason in enumerate(reasons) if reason], dtype=np.int64)
    partial = places.with_name(places.name + ".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            start=np.cumsum(sizes) - sizes,
            shape=shapes,
            bad=bad,
            reason=np.array([reasons[index] for index in bad], dtype=np.str_),
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, places)


def _write_pixels(source: Source, file: BinaryIO, workers: int, at_once: int) -> tuple[NDArray[np.int64], list[str]]:
    """Shapes (N, 2) of the images, in whose order their pixels were written, and reasons ("" where there is none)."""
    shapes: list[NDArray[np.int64]] = []
    reasons: list[str] = []
    pool = Workers(_Decoder(source), workers)
    try:
        for decoded in pool.run(_chunks(len(source), at_once)):
            file.write(decoded.pixels.numpy().data)
            shapes.append(decoded.shape)
            reasons.extend(decoded.reasons)
    finally:
        pool.close()
    return np.concatenate(shapes), reasons


def _chunks(length: int, at_once: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + at_once, length)) for start in range(0, length, at_once))
