"""A small VOCdevkit folder for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Shown = Sequence[tuple[str, bool]]
"""Objects of an image: class, and whether it is marked difficult."""


def annotation(objects: Shown) -> str:
    """As the devkit writes it, boxes and all."""
    parts = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(difficult)}</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name, difficult in objects
    )
    return f"<annotation><folder>VOC2007</folder><segmented>0</segmented>{parts}</annotation>"


def write_voc(
    folder: Path, images: Mapping[str, Shown], splits: Mapping[str, Sequence[str]], *, year: str = "2007"
) -> Path:
    """``folder``/VOCdevkit/VOC<year> with one JPEG and one annotation an image; returns that folder.

    An image's colour says what it shows: red a person, green a dog, blue a car.
    """
    root = folder / "VOCdevkit" / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for number, (name, objects) in enumerate(images.items()):
        random = np.random.default_rng(number)
        pixels = random.uniform(0, 80, size=(24, 36, 3))
        for channel, shown in enumerate(("person", "dog", "car")):
            if (shown, False) in objects:
                pixels[..., channel] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        (root / "Annotations" / f"{name}.xml").write_text(annotation(objects))
    for split, names in splits.items():
        # The devkit's own lists end some lines with blanks.
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name} \n" for name in names))
    return root
