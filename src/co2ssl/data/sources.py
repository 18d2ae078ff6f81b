"""Where images come from: any folder, CIFAR-10, the built-in demo, or arrays in memory."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.decoding import BadImage, read_image
from co2ssl.data.pixels import Image
from co2ssl.errors import UserError

__all__ = ["ArraySource", "BadImage", "DataError", "FolderSource", "Source", "Subset", "open_source"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
PREFIXES = ("cifar10",)

DEMO_IMAGES = {"train": 4_000, "val": 1_000}
DEMO_SIZE = 32
DEMO_SEED = 0


class DataError(UserError):
    """Images that cannot be found or used."""


class Source(Protocol):
    """A numbered set of images, with labels or without."""

    @property
    def name(self) -> str:
        """What messages call it: a path, or a word."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names in sorted order, or None without labels."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(len,) int64 places in ``classes``, or None."""
        ...

    def __len__(self) -> int:
        """How many images."""

    def load(self, index: int) -> Image:
        """Image ``index`` as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""

    def describe(self, index: int) -> str:
        """Which image that is, in words: a path, or a name and a number."""

    def fingerprint(self) -> str:
        """Changes when the set does, so that a run is not resumed on other images."""


def open_source(spec: str, split: str = "train") -> Source:
    """The images that ``spec`` names.

    Args:
        spec: a folder of images, nested to any depth (labelled if every image lies below one of at least two class
            folders); ``cifar10:PATH`` (the Python batches, or a tree of files); or ``demo`` (built in).
        split: "train" or "val". Picks a subfolder where the folder has both (``train``, and ``val`` or ``test``); any
            other folder is taken as it is.

    Raises:
        DataError: nothing there, nothing usable there, or an unknown prefix; the message says what to do.
    """
    if split not in SPLIT_FOLDERS:
        raise DataError(f"no split is called {split!r}; there are train and val")
    if spec == "demo":
        return _demo(DEMO_IMAGES[split], split)
    prefix, colon, path = spec.partition(":")
    if colon and prefix in PREFIXES:
        return _cifar10(path, split)
    if colon and not os.path.exists(spec) and "/" not in prefix and len(prefix) > 1:
        near = difflib.get_close_matches(prefix, PREFIXES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}:{path}?" if near else f"known prefixes are {', '.join(PREFIXES)}"
        raise DataError(f"unknown kind of data {prefix!r} in {spec!r}; {hint}")
    return FolderSource(_split_folder(spec, split))


class FolderSource:
    """Every image file below a folder, in an order that does not depend on the file system.

    Hidden files and folders are skipped, links are followed, and a folder that can be reached twice is listed once.
    Labels are given only where they are unambiguous: every image below a first-level folder, of which there are at
    least two.

    Raises:
        DataError: no folder, or no image in it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.name = folder
        _require_folder(folder)
        paths = sorted(os.fsencode(path) for path in _image_paths(folder))
        if not paths:
            raise DataError(_no_images_message(folder))
        # One block of bytes, not a million strings: worker processes share it instead of copying it page by page as
        # reference counts change.
        self._bytes = np.frombuffer(b"".join(paths), dtype=np.uint8)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self.classes, self.labels = _folder_labels(paths)

    def __len__(self) -> int:
        """How many images."""
        return len(self._ends)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        return read_image(self.describe(index))

    def describe(self, index: int) -> str:
        """The path of the file."""
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.folder, os.fsdecode(self._bytes[start : self._ends[index]].tobytes()))

    def fingerprint(self) -> str:
        """A hash of the relative paths (not of what is in the files)."""
        return _hash(self._bytes, self._ends)


class ArraySource:
    """Images of one size in memory, (N, H, W, 3) uint8 RGB."""

    def __init__(
        self, name: str, images: Image, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None
    ) -> None:
        self.name = name
        self.images = images
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8."""
        image: Image = self.images[index]
        return image

    def describe(self, index: int) -> str:
        """Name and number."""
        return f"{self.name} image {index}"

    def fingerprint(self) -> str:
        """A hash of the pixels."""
        return _hash(self.images)


class Subset:
    """Some images of a source, renumbered from 0."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self.source = source
        self.indices = indices
        self.name = source.name
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]

    def __len__(self) -> int:
        """How many images."""
        return len(self.indices)

    def load(self, index: int) -> Image:
        """The image as RGB (H, W, 3) uint8. Raises :class:`BadImage`."""
        return self.source.load(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """What the source calls it."""
        return self.source.describe(int(self.indices[index]))

    def fingerprint(self) -> str:
        """A hash of the source's fingerprint and of which images are taken."""
        return _hash(np.frombuffer(self.source.fingerprint().encode(), dtype=np.uint8), self.indices)


@lru_cache(maxsize=2)
def _demo(num_images: int, split: str) -> Source:
    """Drawn once in a process and kept: drawing an image takes several times longer than making its views."""
    from co2ssl.data.synthetic import Shapes

    shapes = Shapes(num_images, DEMO_SIZE, DEMO_SEED, split)
    images = np.stack([shapes.load(index) for index in range(len(shapes))])
    return ArraySource(f"demo {split}", images, shapes.labels, shapes.classes)


def _cifar10(path: str, split: str) -> Source:
    """torchvision's reader where the Python batches are there, else a tree of image files."""
    _require_folder(path)
    root = os.path.abspath(path)
    if os.path.basename(root) == "cifar-10-batches-py":
        root = os.path.dirname(root)
    if not os.path.isdir(os.path.join(root, "cifar-10-batches-py")):
        return FolderSource(_split_folder(path, split))
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(root, train=split == "train")
    except RuntimeError as error:
        raise DataError(f"the CIFAR-10 batches in {path} are incomplete or damaged; download them again") from error
    # torchvision's order of classes is alphabetical, as a folder tree's is.
    return ArraySource("cifar10", data.data, np.asarray(data.targets, dtype=np.int64), tuple(data.classes))


def _require_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    if os.path.exists(folder):
        raise DataError(f"{folder} is a file; give the folder that holds the images")
    near = difflib.get_close_matches(folder, ["demo", *_neighbours(folder)], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"no such folder: {folder}{hint}")


def _neighbours(folder: str) -> list[str]:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent or "."):
        return []
    return [os.path.join(parent, entry.name) for entry in os.scandir(parent or ".") if entry.is_dir()]


def _split_folder(folder: str, split: str) -> str:
    """``folder`` itself, or its subfolder for the split where it has a ``train`` folder and one to measure on."""
    found = {
        kind: next((os.path.join(folder, name) for name in names if os.path.isdir(os.path.join(folder, name))), None)
        for kind, names in SPLIT_FOLDERS.items()
    }
    if found["train"] is None or found["val"] is None:
        return folder
    return found[split] or folder


def _image_paths(folder: str) -> Iterator[str]:
    """Paths of image files relative to ``folder``; each real folder once."""
    seen: set[tuple[int, int]] = set()
    # Links wait until every real folder has been seen, and both come in order: which of two ways to a folder counts is
    # then fixed. The last one in a list is the next one out.
    real, links = [""], list[str]()
    while real or links:
        relative = (real or links).pop()
        path = os.path.join(folder, relative)
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except PermissionError as error:
            raise DataError(f"no permission to read the folder {path}") from error
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True):
            if entry.is_dir():
                (links if entry.is_symlink() else real).append(os.path.join(relative, entry.name))
            elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
                # A broken link is listed, so that it is reported as an image that could not be read. A pipe or a device
                # is not: reading it would wait for ever.
                yield os.path.join(relative, entry.name)


def _folder_labels(paths: list[bytes]) -> tuple[tuple[str, ...] | None, NDArray[np.int64] | None]:
    separator = os.fsencode(os.sep)
    first = [path.split(separator, 1) for path in paths]
    names = sorted({parts[0] for parts in first})
    if len(names) < 2 or any(len(parts) == 1 for parts in first):
        return None, None
    place = {name: number for number, name in enumerate(names)}
    labels = np.array([place[parts[0]] for parts in first], dtype=np.int64)
    return tuple(os.fsdecode(name) for name in names), labels


def _no_images_message(folder: str) -> str:
    endings: Counter[str] = Counter()
    for _, _, names in os.walk(folder):
        endings.update(os.path.splitext(name)[1].lower() or "no ending" for name in names if not name.startswith("."))
    held = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(3))
    looked = " ".join(ending.removeprefix(".") for ending in EXTENSIONS)
    return (
        f"no images in {folder} or any folder below it; looked for files ending in {looked}"
        f" and found {held or 'no files at all'}"
    )


def _hash(*arrays: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
