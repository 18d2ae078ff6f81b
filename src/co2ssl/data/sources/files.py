"""Image files on a disk, their paths in flat arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.decoding import read_image
from co2ssl.data.pixels import Image
from co2ssl.data.sources.protocol import hash_arrays


class Paths:
    """Paths, or other short byte strings, in two arrays, however many there are.

    A list of a million strings is a million Python objects. Forked worker processes would come to own a copy of each,
    page by page, as reference counts change; these two arrays they share.

    Attributes:
        text: (B,) uint8, all of them one after the other.
        ends: (N,) int64, where each ends in ``text``.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, paths: Sequence[bytes]) -> Paths:
        """The given byte strings, in their order."""
        lengths = np.fromiter(map(len, paths), dtype=np.int64, count=len(paths))
        return cls(np.frombuffer(b"".join(paths), dtype=np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        """How many."""
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        """Number ``index``, from 0; from the end where it is negative. Raises :class:`IndexError`."""
        place = range(len(self))[index]
        start = self.ends[place - 1] if place else 0
        return self.text[start : self.ends[place]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        """Each in turn."""
        return (self[index] for index in range(len(self)))


class FileSource:
    """Image files, by their paths.

    Args:
        name: what messages call it.
        folder: what relative paths are relative to.
        paths: of the images, as the file system has them; absolute, or relative to ``folder``.
        labels: (len(paths),) int64 places in ``classes``, or None.
        classes: names in sorted order, or None.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        paths: Paths,
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.paths = paths
        self.labels = labels
        self.classes = classes
        self._place = os.path.abspath(folder)
        self._sizes: dict[int, str] = {}

    def __len__(self) -> int:
        """How many images."""
        return len(self.paths)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        return read_image(self.describe(index))

    def describe(self, index: int) -> str:
        """The absolute path of the file: a run that is resumed from another folder calls it the same."""
        return os.path.join(self._place, os.fsdecode(self.paths[index]))

    def fingerprint(self) -> str:
        """A hash of the paths as they were given (not of what is in the files)."""
        return hash_arrays(self.paths.text, self.paths.ends)

    def sizes_hash(self, most: int | None = None) -> str:
        """A hash of how many bytes each file has, looked up once: it changes with nearly every change of a file.

        Args:
            most: files that are looked at, evenly spread; None: all of them, which takes seconds for a million.
        """
        count = len(self) if most is None else min(most, len(self))
        if count not in self._sizes:
            folder = os.fsencode(self._place)
            places = np.linspace(0, len(self) - 1, count).astype(np.int64).tolist()
            sizes = (_size(os.path.join(folder, self.paths[place])) for place in places)
            self._sizes[count] = hash_arrays(np.fromiter(sizes, dtype=np.int64, count=count))
        return self._sizes[count]


def _size(path: bytes) -> int:
    """Bytes; -1 where there is no such file, or it may not be asked."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
