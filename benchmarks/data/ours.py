"""This package's sides: from images to views, the floor (decoding alone), and where the time goes. On one core."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.data.job import Job, main, timed
from co2ssl.data.batch import normalise
from co2ssl.data.cache import cached
from co2ssl.data.loader import Loader
from co2ssl.data.sources import ArraySource, Source, open_source
from co2ssl.data.views import ViewRecipe, draw_views, view_recipe


def recipe_of(job: Job) -> ViewRecipe:
    """MoCo v2, at 32 pixels in its form without blur."""
    return view_recipe("moco-v2" if job.blur else "moco-v2-small", image_size=job.image_size)


def source_of(job: Job) -> Source:
    """The files, or the array in memory."""
    if job.images.endswith(".npy"):
        return ArraySource("images in memory", np.load(job.images), None, None)
    return open_source(job.images)


def views(job: Job) -> dict[str, Any]:
    """What the loader hands to the training step: batches of uint8 views."""
    return _batches(job, source_of(job), normalised=False)


def normalised(job: Job) -> dict[str, Any]:
    """With what the training step then does on its device, here on the same core: float32, as the other sides give."""
    return _batches(job, source_of(job), normalised=True)


def from_cache(job: Job) -> dict[str, Any]:
    """Views of images that were decoded into a memory-mapped file before."""
    with tempfile.TemporaryDirectory() as folder:
        source = cached(source_of(job), Path(folder), workers=0, say=lambda _: None)
        return _batches(job, source, normalised=False)


def decoding(job: Job) -> dict[str, Any]:
    """The floor: every image decoded, and nothing else."""
    source = source_of(job)

    def work(count: int) -> None:
        for index in range(count):
            source.load(index)

    return timed(job, work)


def split(job: Job) -> dict[str, Any]:
    """Milliseconds of the core that each part takes of an image; the clock's own time is in all of them."""
    source, recipe = source_of(job), recipe_of(job)
    seconds: dict[str, float] = defaultdict(float)

    def work(count: int) -> None:
        seconds.clear()
        for index in range(count):
            began = time.process_time()
            image = source.load(index)
            seconds["decoding"] += time.process_time() - began
            # The draws are made for a whole batch at once elsewhere, so they are left out.
            for rows in draw_views(recipe, seed=job.seed, epoch=0, index=index):
                view = image
                for operation, row in zip(recipe.operations, rows, strict=True):
                    began = time.process_time()
                    view = operation.apply(view, row)
                    seconds[type(operation).__name__] += time.process_time() - began

    report = timed(job, work)
    return {**report, "parts_ms": {part: round(1e3 * spent / job.count, 4) for part, spent in seconds.items()}}


def _batches(job: Job, source: Source, *, normalised: bool) -> dict[str, Any]:
    loader = Loader(source, recipe_of(job), batch_size=job.batch_size, seed=job.seed, workers=0)
    if loader.steps_per_epoch * job.batch_size < job.count:
        raise SystemExit(f"{len(source)} images are too few: {job.count} were asked for")

    def work(count: int) -> None:
        for _, batch in zip(range(count // job.batch_size), loader.epoch(0), strict=False):
            if normalised:
                for view in batch.views:
                    normalise(view)

    return timed(job, work)


SIDES = {
    "views": views,
    "normalised": normalised,
    "cached": from_cache,
    "decoding": decoding,
    "split": split,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    main(SIDES)
