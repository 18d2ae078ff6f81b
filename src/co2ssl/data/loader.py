"""From a source to batches: in training order with random views, or in the source's order for evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from co2ssl.data import hashing, pixels
from co2ssl.data.batch import Batch
from co2ssl.data.decoding import BadImage
from co2ssl.data.device_views import crops_alone, finished_views
from co2ssl.data.pixels import Image
from co2ssl.data.sources import DataError, Source
from co2ssl.data.view_maker import Made, Task, ViewMaker, channels_first
from co2ssl.data.views import ViewRecipe
from co2ssl.data.workers import Workers
from co2ssl.distributed import gather, rank_slice, world_size
from co2ssl.errors import UsageError

ViewsOn: TypeAlias = Literal["worker", "device"]

MAX_BAD_SHARE = 0.05

SHARE_EVERY = 1_000
"""Batches after which processes tell each other which images they could not read; at an epoch's end they do too."""

# Times its short side that an image may be long before its ends are cut off for evaluation. The centre crop is at most
# as long as the short side, so what is left has margin enough for the kernel that resizes it.
_LONGEST = 16


class Loader:
    """Batches of random views of a source's images, the same bytes for any number of workers and processes.

    Each epoch takes every image once in a new order and drops what is left over after the last whole batch (other
    images in other epochs). A batch is a global one; each process gets its contiguous share of the rows. An image
    that cannot be read is replaced by another, drawn from all for this image and epoch, with that one's own views and
    index.

    Args:
        source: the images.
        recipe: how views are made of them.
        batch_size: images in a global batch.
        seed: of the order and of the views.
        workers: processes that decode and transform; 0 does it in this one.
        max_bad_share: more unreadable images than this share of all, over all processes, stop the run.
        known_bad: images that earlier parts of the run could not read, as ``bad_images`` has them; the same on every
            process. They count, unless they can be read by now.
        views_on: "worker" makes views as a whole there. "device" leaves workers the crop, and what follows it to
            :meth:`Batch.to`, on whole batches: what is drawn is the same, and the pixels differ by rounding.

    Attributes:
        steps_per_epoch: whole global batches in an epoch.
        bad_images: which image could not be read and why; each once, those that this process has met and, as of the
            last time that it was told of them, the others'. Without those of earlier parts of the run.

    Raises:
        DataError: fewer images than a batch.
        UsageError: a batch or worker count below what makes sense, a batch that the processes cannot share evenly, or
            a recipe with an operation that the device does not have.
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
        known_bad: Sequence[tuple[str, str]] = (),
        views_on: ViewsOn = "worker",
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
        self._bad = _BadImages(source, max_bad_share, self.bad_images, known=known_bad)
        self._on_device = views_on == "device"
        made_there = crops_alone(recipe) if self._on_device else recipe
        self._workers = Workers(ViewMaker(source, recipe, made_there, seed, self._bad.limit), workers)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from ``first_step`` on: CPU, uint8 views in channels-last layout.

        The batch says what :meth:`Batch.to` has still to do: with ``views_on="device"`` these are crops, and a recipe
        may have a split.

        Where there are several processes, every one takes the batches of an epoch in step with the others, to the end
        or to the same batch: on the way they tell each other of unreadable images.

        Args:
            epoch: epochs finished before.
            first_step: batches of this epoch that a run has had before it was interrupted.

        Raises:
            DataError: more unreadable images than allowed.
            WorkerError: a worker process died.
        """
        order = hashing.permutation(self.seed, epoch=epoch, length=len(self.source))
        starts = range(first_step * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size)
        tasks = (Task(epoch, order[start : start + self.batch_size][self._rows]) for start in starts)
        for step, made in enumerate(self._workers.run(tasks), start=epoch * self.steps_per_epoch + first_step):
            self._bad.add(made.bad)
            if world_size() == 1 or not made.images:
                # Several processes stop together, once they have told each other.
                self._bad.check()
            if not made.images:
                where, reason = self.bad_images[-1]
                raise DataError(
                    f"none of the {len(self.source):,} images of {self.source.name} can be read; the last one: {where} "
                    f"({reason}). Replace them, or give other images"
                )
            yield Batch(
                views=made.images,
                index=made.image_index,
                label=_labels(self.source, made.image_index),
                step=step,
                epoch=epoch,
                finish=partial(finished_views, recipe=self.recipe, drawn=made.rest) if self._on_device else None,
                split=self.recipe.split,
            )
            if (step + 1) % SHARE_EVERY == 0:
                self._bad.share()
                self._bad.check()
        self._bad.share()
        self._bad.check()

    def share_bad_images(self) -> None:
        """Add to ``bad_images`` what the other processes have met since they last told.

        :meth:`epoch` does it every :data:`SHARE_EVERY` batches and at its end; this is for who stops in between. Every
        process calls it at the same place.
        """
        self._bad.share()

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
    bad = _BadImages(source, max_bad_share, [] if bad_images is None else bad_images)
    pool = Workers(_CentreMaker(source, image_size, resize), workers)
    everything = np.arange(len(source))
    try:
        tasks = (Task(0, everything[start : start + batch_size]) for start in range(0, len(source), batch_size))
        for made in pool.run(tasks):
            bad.add(made.bad)
            bad.check()
            if len(made.image_index):
                yield made.images[0], _labels(source, made.image_index), made.image_index
    finally:
        pool.close()


class _BadImages:
    """Unreadable images met so far, each once; complains when they are too many.

    Args:
        source: of the images.
        max_share: share of them that may be unreadable.
        found: a list to which each is added, as (which, why).
        known: those that were met before this process began, likewise; they are not added.
    """

    def __init__(
        self,
        source: Source,
        max_share: float,
        found: list[tuple[str, str]],
        *,
        known: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.limit = max_share * len(source)
        self._max_share = max_share
        self._source = source
        self._found = found
        self._seen: set[int] = set()
        self._untold: list[tuple[int, str]] = []
        self._known = {which for which, _ in known}

    def add(self, bad: Sequence[tuple[int, str]]) -> None:
        """Note what a batch of this process met."""
        self._untold += self._noted(bad)

    def share(self) -> None:
        """Note what the other processes met since the last time; every process calls it at the same place."""
        # A line of JSON each, which holds names in any encoding and is never empty.
        line = json.dumps(self._untold) + "\n"
        lines = gather(torch.from_numpy(np.frombuffer(bytearray(line.encode()), dtype=np.uint8)))
        self._untold.clear()
        for told in lines.numpy().tobytes().splitlines():
            self._noted([(index, reason) for index, reason in json.loads(told)])

    def check(self) -> None:
        """Raise :class:`DataError` where there are more than allowed."""
        if self._known and len(self._seen) + len(self._known) > self.limit:
            self._look_again()
        if len(self._seen) > self.limit:
            where, reason = self._found[-1]
            raise DataError(
                f"{len(self._seen):,} of the {len(self._source):,} images of {self._source.name} cannot be read, more "
                f"than {100 * self._max_share:g}%; the last one: {where} ({reason}). Remove or replace "
                "them, or allow more with --max-bad-share"
            )

    def _noted(self, bad: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those of them that are new, which are noted."""
        new: list[tuple[int, str]] = []
        for index, reason in bad:
            if index not in self._seen:
                which = self._source.describe(index)
                self._seen.add(index)
                self._known.discard(which)
                self._found.append((which, reason))
                new.append((index, reason))
        return new

    def _look_again(self) -> None:
        """Read the images that earlier parts of a run could not: whoever was told to may have replaced them."""
        known, self._known = self._known, set()
        for index in range(len(self._source)):
            if self._source.describe(index) in known:
                try:
                    self._source.load(index)
                except BadImage as error:
                    self._noted([(index, error.reason)])


@dataclass(frozen=True)
class _CentreMaker:
    """Makes one evaluation batch; runs in a worker."""

    source: Source
    image_size: int
    resize: int | None

    def __call__(self, task: Task) -> Made:
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
        return Made((channels_first(stacked),), torch.tensor(index, dtype=torch.int64), bad)


def _middle(image: Image) -> Image:
    """The image, or the middle of one that is very long: all that its centre crop can come from.

    Resized as a whole, 1 x 5,000 pixels would be 256 x 1,280,000.
    """
    height, width = image.shape[:2]
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return image[top : height - top, left : width - left]


def _labels(source: Source, index: Tensor) -> Tensor | None:
    return None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])


def _check_counts(batch_size: int, workers: int) -> None:
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images is none; give 1 or more")
    if workers < 0:
        raise UsageError(f"{workers} workers cannot be had; give 0 (no extra process) or more")
