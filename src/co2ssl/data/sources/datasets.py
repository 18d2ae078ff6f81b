"""A data set of PyTorch's, or anything else with a length and numbered items, as a source."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from co2ssl.data.decoding import DECODING_ERRORS, BadImage, from_pillow
from co2ssl.data.pixels import Image
from co2ssl.data.sources.protocol import DataError, hash_arrays

# Images that are looked at when a data set is opened, and whose pixels stand for all of them in the fingerprint.
_SAMPLED = 8


class Numbered(Protocol):
    """What is needed of a data set: ``len(dataset)``, and ``dataset[index]`` from 0."""

    def __len__(self) -> int:
        """How many items."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Item ``index``."""
        ...


class DatasetSource:
    """Any ``torch.utils.data.Dataset`` with a length, without random transforms.

    An item is an image, or a tuple that begins with one, such as (image, label). An image is a Pillow image, an array
    (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W) with 1, 3 or 4 channels (the fourth, transparency, is dropped);
    uint8, or floating point from 0 to 1. Labels are taken from the attribute ``targets`` or ``labels``, as
    torchvision's data sets have it, and class names from ``classes``; labels in the items are not looked at, which
    would load every image.

    Some items are looked at here, and have to be such images unless the data set cannot read them. Any other item that
    is none is a bad image, as one that cannot be read is.

    Args:
        dataset: the images, the same at every reading: views are made here, so leave random transforms out.
        name: what messages call it; None for the name of its class.

    Raises:
        DataError: no length, no items, or among those looked at one that is no such image, none that can be read, or
            one that changes from one reading to the next.
    """

    def __init__(self, dataset: Numbered, name: str | None = None) -> None:
        self.name = type(dataset).__name__ if name is None else name
        iterable = isinstance(dataset, torch.utils.data.IterableDataset)
        if iterable or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise DataError(f"{self.name} has no length or no numbered items; images are taken by number, in any order")
        if len(dataset) == 0:
            raise DataError(f"{self.name} holds no images")
        self.dataset = dataset
        self.classes, self.labels = _classes_and_labels(dataset)
        self._fingerprint = self._read_sample()
        if self._read_sample() != self._fingerprint:
            raise DataError(
                f"images of {self.name} change from one reading to the next; leave its random transforms out: "
                "views are made here, reproducibly"
            )

    def __len__(self) -> int:
        """How many images."""
        return len(self.dataset)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8.

        Raises:
            BadImage: the data set cannot read it, it has no pixels, or it is no image of a kind that is taken.
        """
        try:
            return self._image(index)
        except _NoImage as error:
            raise BadImage(self.describe(index), str(error)) from error

    def describe(self, index: int) -> str:
        """Name and number."""
        return f"{self.name} image {index}"

    def fingerprint(self) -> str:
        """A hash of the length and of a sample of the images."""
        return self._fingerprint

    def _image(self, index: int) -> Image:
        """The image. Raises :class:`BadImage`, and :class:`_NoImage` where the item is none."""
        where = self.describe(index)
        try:
            item = self.dataset[index]
        except DECODING_ERRORS as error:
            if isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_THE_MACHINE):
                raise
            raise BadImage(where, f"cannot be read: {error}") from error
        return _to_rgb(item[0] if isinstance(item, tuple | list) and item else item, where)

    def _read_sample(self) -> str:
        length = np.array([len(self)], dtype=np.int64)
        images = []
        bad: list[BadImage] = []
        for index in np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64)).tolist():
            try:
                images.append(self._image(index))
            except BadImage as error:
                bad.append(error)
                images.append(np.zeros(0, dtype=np.uint8))
            except _NoImage as error:
                raise DataError(f"{self.describe(index)} {error}") from error
        if len(bad) == len(images):
            # A mistake in the program that made the data set looks like this too, and its traceback is the cause.
            raise DataError(
                f"none of {len(bad)} images of {self.name} that were looked at can be read; the first: {bad[0]}"
            ) from bad[0]
        return hash_arrays(length, *images)


_OF_THE_MACHINE = ("out of memory", "not enough memory", "DefaultCPUAllocator", "CUDA")
"""In what torch says when memory runs out, or a worker may not use a card: that is no fault of the image."""


class _NoImage(Exception):  # noqa: N818 - what it comes to depends on when it is found out
    """An item that is not an image of a kind that is taken. The message goes on where the item's name ends."""


def _to_rgb(image: object, where: str) -> Image:
    """Raises :class:`_NoImage`, and :class:`BadImage` where it is one that cannot be used."""
    if isinstance(image, PillowImage.Image):
        return from_pillow(image, where=where)
    if isinstance(image, Tensor):
        pixels = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
        shapes = "(H, W) or (C, H, W)"
    elif isinstance(image, np.ndarray):
        pixels, shapes = image, "(H, W) or (H, W, C)"
    else:
        raise _NoImage(f"is a {type(image).__name__}; give a Pillow image, an array or a tensor")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        kind = type(image).__name__
        raise _NoImage(f"is a {kind} of shape {tuple(image.shape)}; give {shapes} with 1, 3 or 4 channels")
    if pixels.size == 0:
        raise BadImage(where, f"no pixels, shape {tuple(image.shape)}")
    colours = _to_bytes(pixels)[..., :3]
    # A copy of its own: what the data set gave may be read-only, of which torch warns.
    return np.array(np.broadcast_to(colours, (*colours.shape[:2], 3)), order="C")


def _to_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise _NoImage(f"has pixels of type {pixels.dtype}; give uint8, or floating point from 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):
        raise _NoImage(f"has values from {low:.3g} to {high:.3g}; give images before normalisation, from 0 to 1")
    levels: NDArray[np.uint8] = np.rint(pixels.astype(np.float32) * 255.0).astype(np.uint8)
    return levels


def _classes_and_labels(dataset: Numbered) -> tuple[tuple[str, ...] | None, NDArray[np.int64] | None]:
    labels = _labels(dataset)
    if labels is None or len(labels) != len(dataset) or labels.min() < 0:
        return None, None
    names = _names(dataset)
    if names is None or len(names) <= labels.max() or len(set(names)) < len(names):
        digits = len(str(labels.max()))
        names = [f"{number:0{digits}}" for number in range(int(labels.max()) + 1)]
    # A source's classes are in sorted order.
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return tuple(names[number] for number in order), place[labels]


def _labels(dataset: object) -> NDArray[np.int64] | None:
    if isinstance(dataset, torch.utils.data.Subset):
        whole = _labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    for attribute in ("targets", "labels"):
        found = getattr(dataset, attribute, None)
        # Several labels an image, or boxes, make lists of lists, of which no array can be made.
        if isinstance(found, Sequence) and all(isinstance(label, int | np.integer) for label in found):
            return np.asarray(found, dtype=np.int64)
        if isinstance(found, np.ndarray | Tensor):
            labels = np.asarray(found)
            if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
                return labels.astype(np.int64)
    return None


def _names(dataset: object) -> list[str] | None:
    if isinstance(dataset, torch.utils.data.Subset):
        return _names(dataset.dataset)
    found = getattr(dataset, "classes", None)
    if isinstance(found, Sequence) and found and all(isinstance(name, str) for name in found):
        return list(found)
    return None
