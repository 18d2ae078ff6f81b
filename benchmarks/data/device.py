"""Views of whole batches on a GPU: images (of two MoCo v2 views) a second, from pixels on the CPU to views there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from co2ssl.data.device_views import batched_views
from co2ssl.data.views import view_recipe

# Side of image and view, images in a batch, images a second that must be reached.
SIZES = ((32, 1024, 50_000), (224, 256, 5_000))
BATCHES = 20


def on_the_device(*, quick: bool, repeats: int) -> dict[str, Any]:
    """Rates for both sizes; without a CUDA device, that there is none."""
    if not torch.cuda.is_available():
        return {"not_run": "no CUDA device"}
    found: dict[str, Any] = {}
    for side, batch_size, must_reach in SIZES:
        batches = 2 if quick else BATCHES
        step = make_step(side, batch_size, torch.device("cuda"))
        step(0)
        rates = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for number in range(batches):
                step(number)
            torch.cuda.synchronize()
            rates.append(round(batches * batch_size / (time.perf_counter() - began), 1))
        found[f"{side} px"] = {
            "batch_size": batch_size,
            "images_per_second": statistics.median(rates),
            "all": rates,
            "must_reach": must_reach,
        }
    return found


def make_step(side: int, batch_size: int, device: torch.device) -> Callable[[int], None]:
    """A function that draws, copies and makes the two views of a batch; the pixels are noise."""
    recipe = view_recipe("moco-v2" if side > 32 else "moco-v2-small", image_size=side)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, generator=generator)
    images = images.pin_memory() if device.type == "cuda" else images
    index = np.arange(batch_size)

    def step(epoch: int) -> None:
        drawn = [recipe.draw(seed=0, epoch=epoch, index=index, view=view) for view in range(recipe.num_views)]
        batched_views(images.to(device, non_blocking=True), recipe, drawn)

    return step
