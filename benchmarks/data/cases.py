"""What is compared with what, on which images, and what each ratio must reach."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from benchmarks.data.job import Job
from benchmarks.step.images import JPEG_QUALITY, write_photographs, write_small
from co2ssl.data.sources import open_source

Images = Literal["500 x 375", "224 x 224", "in memory"]

SIDES = {
    "ours": ("ours", "views"),
    "ours, normalised": ("ours", "normalised"),
    "decoding alone": ("ours", "decoding"),
    "ours, split": ("ours", "split"),
    "lightly": ("peers", "lightly"),
    "torchvision": ("peers", "torchvision"),
}
"""A side's name: the module of ``benchmarks.data`` it is in, and what it is called there."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A comparison on one core, from images to two MoCo v2 views.

    Attributes:
        images: JPEG files of this size, or images of 32 pixels in memory.
        image_size: side of a view in pixels.
        count: images that are timed.
        must_reach: least ratio of our images a second to lightly's. Ours are uint8, which is normalised on the device;
            the ratio with that done on the same core, as lightly does it, is reported beside it.
    """

    images: Images
    image_size: int
    count: int
    must_reach: float

    def job(self, side: str, folder: Path, *, seed: int, quick: bool) -> Job:
        """What a side is asked to do."""
        return Job(
            side=SIDES[side][1],
            images=str(folder),
            image_size=self.image_size,
            blur=self.image_size > 32,
            count=self.needed(quick),
            batch_size=8 if quick else 128,
            seed=seed,
        )

    def needed(self, quick: bool) -> int:
        """Images that must be there."""
        return 16 if quick else self.count

    def sides(self) -> tuple[str, ...]:
        """All; what is in memory is not decoded."""
        return tuple(name for name in SIDES if name != "decoding alone" or self.images != "in memory")


CASES: dict[str, Case] = {
    "files_500_to_224": Case(images="500 x 375", image_size=224, count=512, must_reach=4),
    "files_224_to_224": Case(images="224 x 224", image_size=224, count=512, must_reach=4),
    "files_500_to_64": Case(images="500 x 375", image_size=64, count=1024, must_reach=3),
    "files_224_to_64": Case(images="224 x 224", image_size=64, count=1024, must_reach=3),
    "memory_32": Case(images="in memory", image_size=32, count=2048, must_reach=8),
}

RATIOS = (
    ("ours", "lightly"),
    ("ours, normalised", "lightly"),
    ("ours, normalised", "torchvision"),
    ("ours", "decoding alone"),
)


def write_images(kind: Images, path: Path, count: int, *, photographs: Path | None, small: str | None) -> None:
    """The images of a case at ``path``: a folder of JPEG files, or a ``.npy`` file.

    Args:
        kind: which.
        path: where.
        count: how many.
        photographs: a folder of image files, nested or not; None: crops of scikit-learn's two photographs.
        small: 32-pixel images, such as ``cifar10:PATH``; None: made from the same two photographs.
    """
    if kind == "in memory":
        write_small(path, count, spec=small)
    elif kind == "224 x 224" and photographs is None:
        write_photographs(path, count)
    elif kind == "224 x 224":
        _copy(photographs, path, count)
    else:
        _reencode(photographs, path, count)


def _copy(photographs: Path | None, path: Path, count: int) -> None:
    """Files as they are, spread over the whole folder, in one flat folder: what every side can read."""
    files = sorted(file for file in Path(str(photographs)).rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if len(files) < count:
        raise SystemExit(f"{photographs} has {len(files)} JPEG files, and the benchmark needs {count}")
    path.mkdir()
    for number, place in enumerate(np.linspace(0, len(files) - 1, count).astype(int).tolist()):
        shutil.copyfile(files[place], path / f"{number:06d}.jpg")


def _reencode(photographs: Path | None, path: Path, count: int) -> None:
    """JPEG files of 500 x 375 pixels, resized from what there is."""
    given = path.with_name(path.name + "-given")
    if photographs is None:
        write_photographs(given, count, side=375)
    else:
        _copy(photographs, given, count)
    source = open_source(str(given))
    path.mkdir()
    for number in range(count):
        image = cv2.resize(source.load(number), (500, 375), interpolation=cv2.INTER_CUBIC)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(path / f"{number:06d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
