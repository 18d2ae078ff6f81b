"""A look at the images themselves: sizes, formats, channels, copies, and files that cannot be read."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from co2ssl.data import hashing
from co2ssl.data.copies import Pairs, Picture, exact_copies, near_copies, picture
from co2ssl.data.decoding import DECODING_ERRORS, BadImage
from co2ssl.data.sources import FileSource, Source, Subset
from co2ssl.data.workers import Workers

CHUNK = 16
"""Images that a worker looks at between two reports."""

_ORIENTATION = 0x0112
_MODES = {
    "1": "one bit",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "CMYK": "CMYK",
    "I": "grey, more than 8 bits",
}
_SAME_FORMAT = {"JPG": "JPEG", "JPE": "JPEG", "TIF": "TIFF", "PGM": "PPM", "MPO": "JPEG"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of one image.

    Attributes:
        index: its place in the source.
        reason: why it cannot be read; "" where it can.
        file_bytes: size of its file; None where it has none of its own.
        format: of the file, by Pillow's name; "" where there is none.
        channels: in words; "" where there is no file.
        oddities: what is unusual about the file, in words.
        width: in pixels, upright; 0 of a bad image.
        height: likewise.
        picture: what copies are found by; None of a bad image.
    """

    index: int
    reason: str = ""
    file_bytes: int | None = None
    format: str = ""
    channels: str = ""
    oddities: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    picture: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the images are, in pixels, as (width, height).

    Attributes:
        median: of the widths, and of the heights.
        smallest: the image of the fewest pixels.
        largest: the image of the most.
        mean_pixels: pixels of an image, on average.
        short_side_tenth: a tenth of the images have a shorter side of at most this length.
    """

    median: tuple[int, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    mean_pixels: float
    short_side_tenth: int


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How the images are divided over the classes; all of them, not only those looked at.

    Attributes:
        classes: how many there are.
        empty: how many of them have no image.
        smallest: name and number of images of the smallest class that has any.
        largest: the same of the largest.
    """

    classes: int
    empty: int
    smallest: tuple[str, int]
    largest: tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a source.

    Attributes:
        images: how many the source has.
        looked_at: how many of them were looked at; what follows is of these.
        file_bytes: (median, largest, sum) of the files' sizes; None where the images are no files.
        formats: format -> images.
        channels: kind of channels -> images.
        oddities: what is unusual -> images.
        sizes: in pixels; None where no image can be read.
        balance: of the classes; None where there are none.
        bad: the images that cannot be read, as (which, why).
        exact_copies: images with the same pixels as one before, as (which, the one before).
        near_copies: other images that are nearly the same as one before, likewise.
        good: (n,) int64, places of the images that can be read, rising.
    """

    images: int
    looked_at: int
    file_bytes: tuple[int, int, int] | None
    formats: Mapping[str, int]
    channels: Mapping[str, int]
    oddities: Mapping[str, int]
    sizes: Sizes | None
    balance: Balance | None
    bad: tuple[tuple[str, str], ...]
    exact_copies: tuple[tuple[str, str], ...]
    near_copies: tuple[tuple[str, str], ...]
    good: NDArray[np.int64]


def inspect_images(
    source: Source,
    *,
    sample: int,
    seconds: float,
    seed: int,
    workers: int,
    seen: Callable[[int], None],
) -> Inspection:
    """Look at all images, or at a random part of them.

    Args:
        source: the images.
        sample: most images to look at, 1 or more.
        seconds: begin with no more of them after this time.
        seed: of the order in which they are taken: the beginning of it is the sample.
        workers: processes that look; 0 does it in this one.
        seen: is told how many have been looked at.

    Raises:
        WorkerError: a worker process died.
    """
    order = hashing.permutation(seed, epoch=0, length=len(source))[:sample]
    pool = Workers(_Inspector(source), workers)
    looks: list[Look] = []
    began = time.monotonic()
    try:
        for some in pool.run(order[start : start + CHUNK] for start in range(0, len(order), CHUNK)):
            looks.extend(some)
            seen(len(looks))
            if time.monotonic() - began > seconds:
                break
    finally:
        pool.close()
    return summarise(source, sorted(looks, key=lambda look: look.index))


def look_at(source: Source, index: int) -> Look:
    """Read one image, and its file's header where it has one."""
    path = file_of(source, index)
    file_bytes = None if path is None else _bytes_of(path)
    try:
        image = source.load(index)
    except BadImage as error:
        return Look(index=index, reason=error.reason, file_bytes=file_bytes)
    kind, channels, oddities = ("", "", ()) if path is None else _header(path)
    return Look(
        index=index,
        file_bytes=file_bytes,
        format=kind,
        channels=channels,
        oddities=oddities,
        width=image.shape[1],
        height=image.shape[0],
        picture=picture(image),
    )


def file_of(source: Source, index: int) -> str | None:
    """The path of the file that holds this image and nothing else; None where there is none."""
    if isinstance(source, Subset):
        return file_of(source.source, int(source.indices[index]))
    return source.describe(index) if isinstance(source, FileSource) else None


def summarise(source: Source, looks: Sequence[Look]) -> Inspection:
    """The counts and the names, of the images that were looked at, in the source's order."""
    good = [look for look in looks if look.picture is not None]
    places = [look.index for look in good]
    pictures = [look.picture for look in good if look.picture is not None]
    exact, distinct = exact_copies(pictures)
    near = near_copies([pictures[place] for place in distinct])
    sizes = np.array([look.file_bytes for look in looks if look.file_bytes is not None], dtype=np.int64)
    return Inspection(
        images=len(source),
        looked_at=len(looks),
        file_bytes=(int(np.median(sizes)), int(sizes.max()), int(sizes.sum())) if len(sizes) else None,
        formats=_counted(look.format for look in good if look.format),
        channels=_counted(look.channels for look in good if look.channels),
        oddities=_counted(oddity for look in good for oddity in look.oddities),
        sizes=_sizes(good) if good else None,
        balance=_balance(source),
        bad=tuple((source.describe(look.index), look.reason) for look in looks if look.picture is None),
        exact_copies=_named(source, exact, places),
        near_copies=_named(source, near, [places[place] for place in distinct]),
        good=np.array(places, dtype=np.int64),
    )


@dataclass(frozen=True)
class _Inspector:
    """Looks at some images; runs in a worker."""

    source: Source

    def __call__(self, places: NDArray[np.int64]) -> list[Look]:
        return [look_at(self.source, index) for index in places.tolist()]


def _bytes_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        # It is listed as a bad image, with the reason, by whoever tries to read it.
        return None


def _header(path: str) -> tuple[str, str, tuple[str, ...]]:
    """Format, channels and oddities of a file whose pixels can be read."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which are no harm here, and of odd metadata.
            warnings.simplefilter("ignore")
            with PillowImage.open(path) as image:
                return _kind(image, path)
    except DECODING_ERRORS:
        # What stands around the pixels is damaged, or the file went away.
        return "", "", ("a damaged header",)


def _kind(image: PillowImage.Image, path: str) -> tuple[str, str, tuple[str, ...]]:
    kind = image.format or ""
    oddities = []
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        oddities.append("turned upright by EXIF")
    if getattr(image, "n_frames", 1) > 1 and kind != "MPO":
        oddities.append("several frames, the first is used")
    ending = os.path.splitext(path)[1][1:].upper()
    if _SAME_FORMAT.get(ending, ending) != _SAME_FORMAT.get(kind, kind):
        oddities.append("another format than its name ends in")
    channels = "16-bit grey" if image.mode.startswith("I;16") else _MODES.get(image.mode, image.mode)
    return kind, channels, tuple(oddities)


def _counted(words: Iterator[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _sizes(looks: Sequence[Look]) -> Sizes:
    pixels = np.array([(look.width, look.height) for look in looks], dtype=np.int64)
    order = np.argsort(pixels.prod(axis=1), kind="stable")
    width, height = np.median(pixels, axis=0).astype(np.int64).tolist()
    (least_wide, least_high), (most_wide, most_high) = pixels[order[[0, -1]]].tolist()
    return Sizes(
        median=(width, height),
        smallest=(least_wide, least_high),
        largest=(most_wide, most_high),
        mean_pixels=float(pixels.prod(axis=1).mean()),
        short_side_tenth=int(np.quantile(pixels.min(axis=1), 0.1)),
    )


def _balance(source: Source) -> Balance | None:
    if source.labels is None or not source.classes:
        return None
    counts = np.bincount(source.labels, minlength=len(source.classes))
    filled = np.flatnonzero(counts)
    least, most = filled[np.argmin(counts[filled])], filled[np.argmax(counts[filled])]
    return Balance(
        classes=len(source.classes),
        empty=len(source.classes) - len(filled),
        smallest=(source.classes[least], int(counts[least])),
        largest=(source.classes[most], int(counts[most])),
    )


def _named(source: Source, pairs: Pairs, places: Sequence[int]) -> tuple[tuple[str, str], ...]:
    return tuple((source.describe(places[copy]), source.describe(places[first])) for copy, first in pairs)
