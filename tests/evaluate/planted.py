"""Images whose class is a structure that a small network has to learn, and whose best possible accuracy is known."""

from __future__ import annotations

import numpy as np

from co2ssl.data.sources import ArraySource

CLASSES = ("across", "both", "down")
SIDE = 16


def stripes(num: int, *, seed: int = 0, name: str = "stripes", mislabelled: float = 0.0) -> ArraySource:
    """Stripes across, down, or both ways, of any colours, widths and places: flips and crops leave the class.

    A share of ``mislabelled`` gets the label of another class, so that no more than the rest can be got right.
    """
    random = np.random.default_rng(seed)
    shown = np.arange(num) % 3
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    images = np.empty((num, SIDE, SIDE, 3), np.uint8)
    for image, kind in zip(images, shown, strict=True):
        step, first, second = random.uniform(0.8, 1.6), *random.uniform(0, 6, 2)
        across, down = np.sin(step * rows + first), np.sin(step * columns + second)
        pattern = (across, (across + down) / 2, down)[kind][..., None] * random.uniform(50, 90, 3)
        image[:] = (128 + pattern + 12 * random.standard_normal((SIDE, SIDE, 3))).clip(0, 255)
    wrong = np.arange(num) < round(mislabelled * num)
    return ArraySource(name, images, np.where(wrong, (shown + 1) % 3, shown).astype(np.int64), CLASSES)
