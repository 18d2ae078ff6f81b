"""Data sets that papers name: CIFAR, ImageNet and VOC, as torchvision and their publishers lay them out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

import numpy as np

from co2ssl.data.sources.arrays import ArraySource
from co2ssl.data.sources.files import FileSource, Paths
from co2ssl.data.sources.folder import SPLIT_FOLDERS, FolderSource, require_folder, split_folder, split_part
from co2ssl.data.sources.protocol import DataError, Source
from co2ssl.distributed import barrier, is_main

IMAGENET_CLASSES = 1_000
VOC_YEARS = ("VOC2007", "VOC2012")

_WNID = re.compile(r"n\d{8}")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Cifar:
    """Which of the two.

    Attributes:
        title: as papers write it.
        reader: torchvision's class.
        folder: in which the Python batches lie.
    """

    title: str
    reader: str
    folder: str


CIFAR10 = Cifar("CIFAR-10", "CIFAR10", "cifar-10-batches-py")
CIFAR100 = Cifar("CIFAR-100", "CIFAR100", "cifar-100-python")


def open_cifar(kind: Cifar, path: str, split: str, *, download: bool, listing_folder: str | Path | None) -> Source:
    """torchvision's reader where the Python batches are, or are to be fetched; else a tree of image files.

    Raises:
        DataError: neither is there, batches are damaged, or they cannot be fetched.
    """
    root = os.path.abspath(path)
    if os.path.basename(root) == kind.folder:
        root = os.path.dirname(root)
    if not download and not os.path.isdir(os.path.join(root, kind.folder)):
        return _cifar_files(kind, path, split, listing_folder)
    from torchvision import datasets

    reader = getattr(datasets, kind.reader)
    data = _read(kind.title, path, lambda fetch: reader(root, train=split == "train", download=fetch), download)
    # torchvision's order of classes is alphabetical, as a folder tree's is.
    labels = np.asarray(data.targets, dtype=np.int64)
    return ArraySource(kind.reader.lower(), data.data, labels, tuple(data.classes))


def open_imagenet(path: str, split: str, *, listing_folder: str | Path | None) -> Source:
    """The 1,000 classes, in folders named by their ids below ``path``'s folder of the split.

    Raises:
        DataError: not the 1,000 class folders.
    """
    folder, found = _class_folders(path, split)
    if len(found) != IMAGENET_CLASSES:
        raise DataError(
            f"{folder} has {len(found):,} class folders (n01440764, ...), ImageNet has {IMAGENET_CLASSES:,}; "
            f"to take it as it is, give {folder} without a prefix"
        )
    return FolderSource(folder, only=found, listing_folder=listing_folder)


def open_imagenet100(path: str, split: str, *, listing_folder: str | Path | None) -> Source:
    """The published 100 classes of ImageNet; other class folders may lie beside theirs.

    Raises:
        DataError: some of them are missing; the message names three.
    """
    wanted = imagenet100_classes()
    folder, found = _class_folders(path, split)
    if missing := sorted(set(wanted) - set(found)):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"{folder} lacks {len(missing)} of the 100 class folders of ImageNet-100: {shown}")
    return FolderSource(folder, only=wanted, listing_folder=listing_folder)


@cache
def imagenet100_classes() -> tuple[str, ...]:
    """Ids of the 100 classes, sorted (Tian et al. 2020; the list that is published with CMC)."""
    text = resources.files("co2ssl.data.sources").joinpath("imagenet100.txt").read_text(encoding="ascii")
    return tuple(sorted(line for line in text.splitlines() if not line.startswith("#")))


def open_voc(path: str, split: str, *, download: bool) -> Source:
    """The images that ImageSets/Main/train.txt or val.txt names. They have several labels each, so none here.

    Args:
        path: the folder that holds VOCdevkit; VOCdevkit; or VOCdevkit/VOC2007 or VOC2012 itself, which is needed where
            both years, or none yet, are there.
        split: "train" or "val".
        download: fetch what torchvision fetches of that year: its train and val part.

    Raises:
        DataError: no year, or two; no list; or it cannot be fetched.
    """
    root, year = _voc_year(path, download=download)
    from torchvision.datasets import VOCDetection

    number = year.removeprefix("VOC")
    data = _read(
        f"VOC {number}",
        path,
        lambda fetch: VOCDetection(root, year=number, image_set=split, download=fetch),
        # torchvision unpacks again whatever is there already.
        download and not os.path.isdir(os.path.join(root, "VOCdevkit", year)),
    )
    if not data.images:
        raise DataError(f"the list {split}.txt of {path} is empty")
    names = Paths.of([os.fsencode(os.path.basename(image)) for image in data.images])
    return FileSource(path, os.path.dirname(data.images[0]), names)


def _voc_year(path: str, *, download: bool) -> tuple[str, str]:
    """The folder that holds VOCdevkit, and which year of it."""
    root = os.path.abspath(path)
    if os.path.basename(root) in VOC_YEARS and os.path.basename(os.path.dirname(root)) == "VOCdevkit":
        if not download:
            require_folder(path)
        return os.path.dirname(os.path.dirname(root)), os.path.basename(root)
    if os.path.basename(root) == "VOCdevkit":
        root = os.path.dirname(root)
    kit = os.path.join(root, "VOCdevkit")
    years = [year for year in VOC_YEARS if os.path.isdir(os.path.join(kit, year))]
    if len(years) == 1:
        return root, years[0]
    if not download:
        require_folder(path)
    held = "holds both years" if years else "holds neither VOCdevkit/VOC2007 nor VOCdevkit/VOC2012"
    raise DataError(f"{path} {held}; say which: voc:{os.path.join(kit, VOC_YEARS[0])}{'' if years else ' --download'}")


def _read(title: str, path: str, read: Callable[[bool], _Read], download: bool) -> _Read:
    """What a torchvision reader reads; fetched first, by one process for all, if it is asked for."""
    if download:
        try:
            if is_main():
                read(True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{title} could not be downloaded to {path}: {error}") from error
        barrier()
    try:
        return read(False)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{title} in {path} is incomplete or damaged; fetch it again with --download") from error


def _cifar_files(kind: Cifar, path: str, split: str, listing_folder: str | Path | None) -> Source:
    try:
        return FolderSource(split_folder(path, split), listing_folder=listing_folder)
    except DataError as error:
        raise DataError(f"{error}. With --download, {kind.title} is fetched to {path} first") from error


def _class_folders(path: str, split: str) -> tuple[str, list[str]]:
    """The folder that holds the class folders of the split, and their sorted names."""
    require_folder(path)
    folder = split_part(path, split) or path
    found = sorted(entry.name for entry in os.scandir(folder) if _WNID.fullmatch(entry.name) and entry.is_dir())
    if not found:
        names = " or ".join(SPLIT_FOLDERS[split])
        raise DataError(
            f"{folder} holds no class folders (n01440764, ...), nor does a folder {names} in it. ImageNet is not "
            "downloaded here: get it from image-net.org; torchvision.datasets.ImageNet unpacks the official archives "
            "into train/ and val/ with class folders"
        )
    return folder, found
