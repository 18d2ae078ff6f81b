"""Images that are in memory already, and parts of other sources."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.pixels import Image
from co2ssl.data.sources.protocol import Source, hash_arrays


class ArraySource:
    """Images of one size in memory, (N, H, W, 3) uint8 RGB."""

    def __init__(
        self, name: str, images: Image, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None
    ) -> None:
        self.name = name
        self.images = images
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8."""
        image: Image = self.images[index]
        return image

    def describe(self, index: int) -> str:
        """Name and number."""
        return f"{self.name} image {index}"

    def fingerprint(self) -> str:
        """A hash of the pixels."""
        return hash_arrays(self.images)


class Subset:
    """Some images of a source, renumbered from 0."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self.source = source
        self.indices = indices
        self.name = source.name
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]

    def __len__(self) -> int:
        """How many images."""
        return len(self.indices)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        return self.source.load(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """What the source calls it."""
        return self.source.describe(int(self.indices[index]))

    def fingerprint(self) -> str:
        """A hash of the source's fingerprint and of which images are taken."""
        return hash_arrays(np.frombuffer(self.source.fingerprint().encode(), dtype=np.uint8), self.indices)
