"""What a source of images is: the seam between any kind of storage and the rest of the package."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.pixels import Image
from co2ssl.errors import UserError


class DataError(UserError):
    """Images that cannot be found or used."""


@runtime_checkable
class Source(Protocol):
    """A numbered set of images, with labels or without.

    Anything that has these members is a source: :func:`co2ssl.pretrain` takes it, and so do the loader and every
    protocol. What it must promise: image ``index`` is the same pixels whenever and wherever it is loaded (views are
    drawn elsewhere), one image that cannot be read is a :class:`BadImage` and no other exception, and a copy in a
    worker process is small. Keep large tables in numpy arrays, which forked workers share, not in lists of strings,
    which they end up copying as reference counts change.
    """

    @property
    def name(self) -> str:
        """What messages call it: a path, or a word."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names in sorted order, or None without labels."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(len,) int64 places in ``classes``, or None. For evaluation only: training never reads them."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def load(self, index: int) -> Image:
        """Image ``index`` as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        ...

    def describe(self, index: int) -> str:
        """Which image that is, in words: a path, or a name and a number."""
        ...

    def fingerprint(self) -> str:
        """Changes when the set does, so that a run is not resumed on other images."""
        ...


def hash_arrays(*arrays: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    """Sixteen hex digits of the shapes and contents of some arrays: what fingerprints are made of."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
