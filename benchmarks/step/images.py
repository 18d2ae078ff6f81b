"""Images for the benchmark where none are given: crops of the two photographs that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from co2ssl.data.sources import open_source

JPEG_QUALITY = 90


def write_photographs(folder: Path, count: int, *, side: int = 224, seed: int = 0) -> None:
    """``count`` JPEG files of ``side`` x ``side`` pixels in ``folder``: what Imagenette is, in size and in kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(_crops(count, side, seed)):
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def write_small(path: Path, count: int, *, spec: str | None, side: int = 32, seed: int = 0) -> None:
    """``count`` images of ``side`` x ``side`` pixels in a ``.npy`` file, of the data that ``spec`` names or crops."""
    if spec is None:
        images = [cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in _crops(count, 224, seed)]
    else:
        source = open_source(spec)
        if len(source) < count:
            raise SystemExit(f"{source.name} has {len(source)} images, and the benchmark needs {count}")
        images = [source.load(index) for index in np.linspace(0, len(source) - 1, count).astype(int).tolist()]
        if any(image.shape != (side, side, 3) for image in images):
            raise SystemExit(f"{source.name} has images that are not {side} x {side}")
    np.save(path, np.stack(images))


def _crops(count: int, side: int, seed: int) -> list[NDArray[np.uint8]]:
    """Squares of half to all of a photograph's height, at random places."""
    photographs = load_sample_images().images
    random = np.random.default_rng(seed)
    crops = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height, width = photograph.shape[:2]
        size = int(random.integers(height // 2, height + 1))
        top, left = int(random.integers(0, height - size + 1)), int(random.integers(0, width - size + 1))
        crop = photograph[top : top + size, left : left + size]
        crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
    return crops
