"""Small image folders for tests, drawn from formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# A run that takes about a second: a network of an eighth of the width on 16-pixel images.
TINY: dict[str, Any] = {
    "width": 0.125,
    "image_size": 16,
    "batch_size": 8,
    "batch_norm_groups": 2,
    "queue_size": 20,
    "embedding_dim": 16,
    "epochs": 2,
    "workers": 0,
    "probe_every": 0,
    "log_every": 1,
    "device": "cpu",
}


def tiny(**changed: object) -> list[str]:
    """``TINY``, with changes, as words of a command line."""
    return [word for name, value in {**TINY, **changed}.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def write_images(folder: Path, count: int, *, side: int = 20, seed: int = 0) -> None:
    """``count`` PNG files of smooth colour in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    for number in range(count):
        waves = [np.sin(rows * a + columns * b + c) for a, b, c in random.uniform(0, 9, size=(3, 3))]
        pixels = (np.stack(waves, axis=-1) * 127 + 128).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def write_classes(folder: Path, *, classes: int = 2, each: int = 12) -> None:
    """An ImageFolder: ``each`` images in each of ``classes`` folders."""
    for number in range(classes):
        write_images(folder / f"class-{number}", each, seed=number)


def write_parts(folder: Path) -> None:
    """Labelled images of two classes: ``train`` with 20 and ``val`` with 12, whose files have the same names."""
    write_classes(folder / "train", each=10)
    write_classes(folder / "val", each=6)
