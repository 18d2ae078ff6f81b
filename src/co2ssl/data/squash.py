"""A source whose images are made square by resizing, not by cropping."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from co2ssl.data import pixels
from co2ssl.data.patches import MAX_ELONGATION
from co2ssl.data.pixels import Image
from co2ssl.data.sources.protocol import Source


@dataclass(frozen=True)
class Squashed:
    """Images of ``source``, the short side brought to ``short_side`` and both sides then to ``size``, in pixels.

    Nothing is cut away, and the aspect ratio is lost: the published VOC07 SVM pipeline, 256 and then 224 x 224 (seen
    in vissl's ``eval_resnet_8gpu_transfer_voc07_svm.yaml``). In between, the long side is at most ``MAX_ELONGATION``
    times the short one (ours): a strip of one pixel by 20,000 would become 4 GB.
    """

    source: Source
    short_side: int
    size: int

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The source's."""
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The source's."""
        return self.source.labels

    def __len__(self) -> int:
        """How many images."""
        return len(self.source)

    def load(self, index: int) -> Image:
        """The image as RGB (size, size, 3) uint8. Raises :class:`BadImage`."""
        image = self.source.load(index)
        short = min(image.shape[:2])
        height, width = (self.short_side * min(side, MAX_ELONGATION * short) // short for side in image.shape[:2])
        return pixels.resize(pixels.resize(image, height, width), self.size, self.size)

    def describe(self, index: int) -> str:
        """What the source calls it."""
        return self.source.describe(index)

    def fingerprint(self) -> str:
        """The source's, and what is done to its images: features of them are other features."""
        text = f"{self.source.fingerprint()} squashed {self.short_side} {self.size}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
