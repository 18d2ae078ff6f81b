"""The other sides: lightly's transform, and torchvision's v2 transforms composed by hand. From images to tensors.

``lightly``: its MoCoV2Transform at the view's size, on PIL images, as its documentation has it (at 32 pixels without
blur, as its benchmarks have it). ``torchvision``: the same operations of ``torchvision.transforms.v2`` on uint8
tensors, antialiased, with the blur's kernel a tenth of the view. Both give normalised float32 tensors.

Runs in an environment of its own, and imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightly
import numpy as np
import torch
import torchvision
from lightly.transforms.moco_transform import MoCoV2Transform
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmarks.data.job import Job, main, timed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def with_lightly(job: Job) -> dict[str, Any]:
    """PIL images through MoCoV2Transform."""
    views = MoCoV2Transform(input_size=job.image_size, **({} if job.blur else {"gaussian_blur": 0.0}))
    return _run(job, _opened(job), views)


def with_torchvision(job: Job) -> dict[str, Any]:
    """uint8 tensors through the v2 transforms, twice."""
    taps = 2 * (job.image_size // 10 // 2) + 1
    blur = [v2.RandomApply([v2.GaussianBlur(taps, sigma=(0.1, 2.0))], p=0.5)] if job.blur else []
    view = v2.Compose(
        [
            v2.RandomResizedCrop(job.image_size, scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *blur,
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return _run(job, _decoded(job), lambda image: (view(image), view(image)))


def _run(job: Job, load: Callable[[int], Any], views: Callable[[Any], Any]) -> dict[str, Any]:
    torch.manual_seed(job.seed)
    torch.set_num_threads(1)

    def work(count: int) -> None:
        for index in range(count):
            one, other = views(load(index))
            assert one.shape == other.shape == (3, job.image_size, job.image_size)

    report = timed(job, work)
    return {**report, "lightly": lightly.__version__, "torchvision": torchvision.__version__}


def _opened(job: Job) -> Callable[[int], Image.Image]:
    if job.images.endswith(".npy"):
        images = np.load(job.images)
        return lambda index: Image.fromarray(images[index])
    files = _files(job)

    def load(index: int) -> Image.Image:
        with files[index].open("rb") as file:
            return Image.open(file).convert("RGB")

    return load


def _decoded(job: Job) -> Callable[[int], torch.Tensor]:
    if job.images.endswith(".npy"):
        images = torch.from_numpy(np.load(job.images)).permute(0, 3, 1, 2)
        return lambda index: images[index]
    files = _files(job)
    return lambda index: decode_image(str(files[index]), mode=ImageReadMode.RGB)


def _files(job: Job) -> list[Path]:
    return sorted(Path(job.images).iterdir())


SIDES = {"lightly": with_lightly, "torchvision": with_torchvision}

if __name__ == "__main__":
    main(SIDES)
