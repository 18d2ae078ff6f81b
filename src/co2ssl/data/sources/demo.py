"""The images that come with the package."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from co2ssl.data.sources.arrays import ArraySource
from co2ssl.data.sources.protocol import Source

DEMO_IMAGES = {"train": 4_000, "val": 1_000}
DEMO_SIZE = 32
DEMO_SEED = 0


def open_demo(split: str) -> Source:
    """The drawn shapes of one split, "train" or "val"."""
    return _drawn(DEMO_IMAGES[split], split)


@lru_cache(maxsize=2)
def _drawn(num_images: int, split: str) -> Source:
    """Drawn once in a process and kept: drawing an image takes several times longer than making its views."""
    from co2ssl.data.synthetic import Shapes

    shapes = Shapes(num_images, DEMO_SIZE, DEMO_SEED, split)
    images = np.stack([shapes.load(index) for index in range(len(shapes))])
    return ArraySource(f"demo {split}", images, shapes.labels, shapes.classes)
