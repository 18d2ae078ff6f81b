"""From a source to batches: in training order with random views, or in the source's order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data import hashing, pixels
from co2ssl.data.batch import Batch
from co2ssl.data.decoding import BadImage
from co2ssl.data.pixels import Image
from co2ssl.data.sources import DataError, Source
from co2ssl.data.views import ViewRecipe, make_views
from co2ssl.data.workers import Workers
from co2ssl.distributed import rank_slice, world_size
from co2ssl.errors import UsageError

MAX_BAD_SHARE = 0.05

# Times its short side that an image may be long before its ends are cut off for evaluation. The centre crop is at most
# as long as the short side, so what is left has margin enough for the kernel that resizes it.
_LONGEST = 16


class Loader:
    """Batches of random views of a source's images, the same bytes for any number of workers and processes.

    Each epoch takes every image once in a new order and drops what is left over after the last whole batch (other
    images in other epochs). A batch is a global one; each process gets its contiguous share of the rows. An image
    that cannot be read is replaced by the next one that can, with that one's own views and index.

    Args:
        source: the images.
        recipe: how views are made of them.
        batch_size: images in a global batch.
        seed: of the order and of the views.
        workers: processes that decode and transform; 0 does it in this one.
        max_bad_share: more unreadable images than this share of all stop the run.

    Attributes:
        steps_per_epoch: whole global batches in an epoch.
        bad_images: which image could not be read and why; each once, as far as this process has met them.

    Raises:
        DataError: fewer images than a batch.
        UsageError: a batch or worker count below what makes sense, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self,
        source: Source,
        recipe: ViewRecipe,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        max_bad_share: float = MAX_BAD_SHARE,
    ) -> None:
        _check_counts(batch_size, workers)
        if len(source) < batch_size:
            raise DataError(
                f"{source.name} has {len(source):,} images, fewer than one batch of {batch_size:,}: "
                f"use a batch size of at most {len(source):,}, or more images"
            )
        if batch_size % world_size():
            raise UsageError(f"a batch of {batch_size} images cannot be shared evenly by {world_size()} processes")
        self.source = source
        self.recipe = recipe
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = len(source) // batch_size
        self.bad_images: list[tuple[str, str]] = []
        self._rows = rank_slice(batch_size)
        self._bad = _BadImages(
            source,
            max_bad_share,
            self.bad_images,
            advice="Remove or replace them, or allow more with --max-bad-share",
        )
        self._workers = Workers(_ViewMaker(source, recipe, seed, self._bad.limit), workers)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from ``first_step`` on: CPU, uint8 views in channels-last layout.

        Args:
            epoch: epochs finished before.
            first_step: batches of this epoch that a run has had before it was interrupted.

        Raises:
            DataError: more unreadable images than allowed.
            WorkerError: a worker process died.
        """
        order = hashing.permutation(self.seed, epoch=epoch, length=len(self.source))
        starts = range(first_step * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size)
        tasks = (_Task(epoch, order[start : start + self.batch_size][self._rows]) for start in starts)
        for step, made in enumerate(self._workers.run(tasks), start=epoch * self.steps_per_epoch + first_step):
            self._bad.add(made.bad)
            yield Batch(
                views=made.images,
                index=made.image_index,
                label=_labels(self.source, made.image_index),
                step=step,
                epoch=epoch,
            )

    def close(self) -> None:
        """End the worker processes."""
        self._workers.close()


def evaluation_batches(
    source: Source,
    *,
    image_size: int,
    resize: int | None,
    batch_size: int,
    workers: int,
    max_bad_share: float = MAX_BAD_SHARE,
    bad_images: list[tuple[str, str]] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Every readable image once, in the source's order, on every process: shorter side resized, then the centre.

    Args:
        source: the images.
        image_size: side of the centre crop in pixels.
        resize: length of the shorter side before the crop (bilinear, antialiased, as torchvision does it on PIL
            images); None leaves it, unless the image is smaller than the crop, which resizes it to ``image_size``.
        batch_size: images in a batch; the last one may be smaller.
        workers: processes that decode and resize; 0 does it in this one.
        max_bad_share: more unreadable images than this share of all are an error. Fewer are left out: ``index`` says
            which images a batch holds.
        bad_images: a list to which each unreadable image is added, as (which, why).

    Yields:
        images (N, 3, image_size, image_size) uint8 in channels-last layout; label (N,) int64 or None; index (N,) int64.

    Raises:
        DataError: more unreadable images than allowed.
        UsageError: a count below what makes sense, or ``resize`` smaller than ``image_size``.
        WorkerError: a worker process died.
    """
    _check_counts(batch_size, workers)
    if resize is not None and resize < image_size:
        raise UsageError(f"images resized to {resize} pixels are too small for a crop of {image_size}; resize to more")
    bad = _BadImages(source, max_bad_share, [] if bad_images is None else bad_images, advice="Remove or replace them")
    pool = Workers(_CentreMaker(source, image_size, resize), workers)
    everything = np.arange(len(source))
    try:
        tasks = (_Task(0, everything[start : start + batch_size]) for start in range(0, len(source), batch_size))
        for made in pool.run(tasks):
            bad.add(made.bad)
            if len(made.image_index):
                yield made.images[0], _labels(source, made.image_index), made.image_index
    finally:
        pool.close()


class _Task(NamedTuple):
    epoch: int
    image_index: NDArray[np.int64]


class _Made(NamedTuple):
    images: tuple[Tensor, ...]
    image_index: Tensor
    bad: list[tuple[int, str]]


class _BadImages:
    """Unreadable images met so far, each once; complains when they are too many."""

    def __init__(self, source: Source, max_share: float, found: list[tuple[str, str]], *, advice: str) -> None:
        self.limit = max_share * len(source)
        self._max_share = max_share
        self._advice = advice
        self._source = source
        self._found = found
        self._seen: set[int] = set()

    def add(self, bad: list[tuple[int, str]]) -> None:
        for index, reason in bad:
            if index not in self._seen:
                self._seen.add(index)
                self._found.append((self._source.describe(index), reason))
        if len(self._seen) > self.limit:
            where, reason = self._found[-1]
            raise DataError(
                f"{len(self._seen):,} of the {len(self._source):,} images of {self._source.name} cannot be read, more "
                f"than {100 * self._max_share:g}%; the last one: {where} ({reason}). {self._advice}"
            )


@dataclass(frozen=True)
class _ViewMaker:
    """Makes the views of one batch; runs in a worker."""

    source: Source
    recipe: ViewRecipe
    seed: int
    bad_limit: float

    def __call__(self, task: _Task) -> _Made:
        size = self.recipe.image_size
        views = [np.empty((len(task.image_index), size, size, 3), np.uint8) for _ in range(self.recipe.num_views)]
        # All parameters of the batch in one call a view, and as Python numbers: per image, numpy's would take longer to
        # draw and to read than the pixels take.
        drawn = [
            [
                parameters.tolist()
                for parameters in self.recipe.draw(seed=self.seed, epoch=task.epoch, index=task.image_index, view=view)
            ]
            for view in range(self.recipe.num_views)
        ]
        index = task.image_index.copy()
        bad: list[tuple[int, str]] = []
        for row, wanted in enumerate(task.image_index.tolist()):
            found, image = self._load(wanted, bad)
            if image is None:
                return _Made((), torch.empty(0, dtype=torch.int64), bad)
            index[row] = found
            if found == wanted:
                for view, parameters in zip(views, drawn, strict=True):
                    view[row] = self.recipe.apply(image, [rows[row] for rows in parameters])
            else:
                made = make_views(image, self.recipe, seed=self.seed, epoch=task.epoch, index=found)
                for view, replacement in zip(views, made, strict=True):
                    view[row] = replacement
        return _Made(tuple(_channels_first(view) for view in views), torch.from_numpy(index), bad)

    def _load(self, wanted: int, bad: list[tuple[int, str]]) -> tuple[int, Image | None]:
        """Image ``wanted``, or the next that can be read; None when this batch alone met more bad ones than allowed."""
        for place in range(wanted, wanted + len(self.source)):
            index = place % len(self.source)
            try:
                return index, self.source.load(index)
            except BadImage as error:
                bad.append((index, error.reason))
                if len({number for number, _ in bad}) > self.bad_limit:
                    break
        return wanted, None


@dataclass(frozen=True)
class _CentreMaker:
    """Makes one evaluation batch; runs in a worker."""

    source: Source
    image_size: int
    resize: int | None

    def __call__(self, task: _Task) -> _Made:
        images: list[Image] = []
        index: list[int] = []
        bad: list[tuple[int, str]] = []
        for wanted in task.image_index.tolist():
            try:
                image = self.source.load(wanted)
            except BadImage as error:
                bad.append((wanted, error.reason))
                continue
            image = _middle(image)
            short_side = self.resize or max(self.image_size, min(image.shape[:2]))
            images.append(pixels.centre_crop(pixels.resize_short_side(image, short_side), self.image_size))
            index.append(wanted)
        stacked = np.stack(images) if images else np.empty((0, self.image_size, self.image_size, 3), np.uint8)
        return _Made((_channels_first(stacked),), torch.tensor(index, dtype=torch.int64), bad)


def _middle(image: Image) -> Image:
    """The image, or the middle of one that is very long: all that its centre crop can come from.

    Resized as a whole, 1 x 5,000 pixels would be 256 x 1,280,000.
    """
    height, width = image.shape[:2]
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return image[top : height - top, left : width - left]


def _channels_first(images: Image) -> Tensor:
    """(N, H, W, 3) as a tensor (N, 3, H, W) on the same memory: channels last, what networks run fastest on."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _labels(source: Source, index: Tensor) -> Tensor | None:
    return None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])


def _check_counts(batch_size: int, workers: int) -> None:
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images is none; give 1 or more")
    if workers < 0:
        raise UsageError(f"{workers} workers cannot be had; give 0 (no extra process) or more")
