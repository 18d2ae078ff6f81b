"""What making the views of an image takes, piece by piece: reading its file, decoding, the random operations."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from co2ssl.api.diagnosis.result import Pace
from co2ssl.data.batch import Batch
from co2ssl.data.decoding import BadImage, decode
from co2ssl.data.inspection import file_of
from co2ssl.data.loader import Loader, ViewsOn
from co2ssl.data.pixels import Image
from co2ssl.data.sources import DataError, Source, Subset
from co2ssl.data.views import ViewRecipe

KEPT_IMAGES = 128
"""Images that decoding and augmenting are measured on, over and over."""
KEPT_BYTES = 2**27
"""Most bytes of their pixels that are held in memory."""
AUGMENTED_AT_ONCE = 16
"""Images in a batch where augmenting alone is measured."""
READ_AT_ONCE = 64
"""Files between two looks at the clock."""


def reading(paths: Iterable[str], *, readers: int, seconds: float) -> Pace:
    """Whole files, several at once, from the disk: what the system holds of them in memory is dropped before.

    Where the system cannot be asked to drop it (macOS), files that were read lately come from memory.

    Args:
        paths: of the files; at least one.
        readers: files that are read at the same time.
        seconds: when to stop, unless the paths end before.
    """
    images = size = 0
    began = time.perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        every = iter(paths)
        while some := list(itertools.islice(every, READ_AT_ONCE)):
            images += len(some)
            size += sum(pool.map(_read_anew, some))
            if time.perf_counter() - began > seconds:
                break
    return Pace(images=images, seconds=time.perf_counter() - began, bytes=size)


def kept_images(source: Source, places: NDArray[np.int64]) -> tuple[list[Callable[[], Image]], list[Image]]:
    """Some images, spread over the given places: how each is decoded from memory, and its pixels.

    Raises:
        DataError: none of them can be read any more.
    """
    decoders: list[Callable[[], Image]] = []
    images: list[Image] = []
    for index in places[:: max(1, len(places) // KEPT_IMAGES)].tolist():
        path = file_of(source, index)
        try:
            decoder = partial(source.load, index) if path is None else partial(decode, _content(path), where=path)
            images.append(decoder())
        except (BadImage, OSError):
            # It could be read a moment ago, and went away.
            continue
        decoders.append(decoder)
        if sum(image.nbytes for image in images) > KEPT_BYTES:
            break
    if not images:
        raise DataError(f"the images of {source.name} went away while they were looked at")
    return decoders, images


def decoding(decoders: Sequence[Callable[[], Image]], *, seconds: float) -> Pace:
    """From the bytes of a file, or from where the source has them, to pixels. In this process."""
    every = itertools.cycle(decoders)
    return paced(lambda: next(every)(), images=1, seconds=seconds)


def augmenting(
    images: Sequence[Image], views: ViewRecipe, *, seconds: float, seed: int, views_on: ViewsOn = "worker"
) -> Pace:
    """All views of images that are decoded already, as far as workers make them. In this process."""
    batches = batches_of(images, views, batch_size=AUGMENTED_AT_ONCE, seed=seed, views_on=views_on)
    return paced(lambda: next(batches), images=AUGMENTED_AT_ONCE, seconds=seconds)


def copying(batches: Sequence[Batch], device: torch.device, *, seconds: float) -> Pace:
    """The views of batches from this machine's memory to the device's."""
    pinned = device.type == "cuda"
    views = [view.pin_memory() if pinned else view for batch in batches for view in batch.views]

    def copy() -> None:
        for view in views:
            view.to(device, non_blocking=True)
        synchronise(device)

    return paced(copy, images=sum(len(batch.index) for batch in batches), seconds=seconds)


def batches_of(
    images: Sequence[Image], views: ViewRecipe, *, batch_size: int, seed: int, views_on: ViewsOn = "worker"
) -> Iterator[Batch]:
    """Batches of views of some images, for ever, made in this process as far as workers make them."""
    again = np.arange(max(batch_size, len(images))) % len(images)
    source = Subset(_Kept(images), again)
    loader = Loader(source, views, batch_size=batch_size, seed=seed, workers=0, views_on=views_on)
    return (batch for epoch in itertools.count() for batch in loader.epoch(epoch))


def paced(work: Callable[[], object], *, images: int, seconds: float) -> Pace:
    """How often ``work``, on so many images, can be done: once to warm up, then at least once, for so many seconds."""
    work()
    done, taken, began = 0, 0.0, time.perf_counter()
    while not done or taken < seconds:
        work()
        done, taken = done + images, time.perf_counter() - began
    return Pace(images=done, seconds=taken)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def as_in_a_worker(workers: int) -> Iterator[None]:
    """One thread, as worker processes have; without any (0) the threads of this process, as then in a run."""
    if workers == 0:
        yield
        return
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class _Kept:
    """Images in memory as a source: what is left of loading is the random operations."""

    name = "images in memory"
    classes = None
    labels = None

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> Image:
        return self._images[index]

    def describe(self, index: int) -> str:
        return f"{self.name}, {index}"

    def fingerprint(self) -> str:
        return self.name


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _read_anew(path: str) -> int:
    """Bytes of the file, read from the disk; 0 of one that went away."""
    try:
        # Opening a pipe would wait for someone to write into it, without this flag.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return len(file.read())
    except OSError:
        return 0
