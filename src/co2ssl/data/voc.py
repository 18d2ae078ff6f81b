"""Which of the twenty Pascal VOC classes each image of a VOCdevkit year shows."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.sources.files import FileSource, Paths
from co2ssl.data.sources.protocol import DataError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""In the devkit's order, which is the alphabetical one."""

_PLACE = {name: place for place, name in enumerate(VOC_CLASSES)}
_LISTS = os.path.join("ImageSets", "Main")


@dataclass(frozen=True, kw_only=True, eq=False)
class VOCSplit:
    """The images of one list of a VOCdevkit year, and what they show.

    Attributes:
        images: a source, without labels of its own: an image may show several classes.
        ids: N names of images, as the list has them.
        targets: (N, 20) int8: 1 shows the class, -1 does not, 0 shows it in objects marked "difficult" only.
    """

    images: FileSource
    ids: tuple[str, ...]
    targets: NDArray[np.int8]


def voc_split(path: str, split: str, *, year: str = "2007") -> VOCSplit:
    """The images of ``split`` and their targets, from the annotations.

    Args:
        path: the folder ``VOC2007`` (or another year's), or the ``VOCdevkit`` that holds it, or what holds that.
        split: a list in ``ImageSets/Main``: "train", "val", "trainval" or "test".
        year: "2007" or "2012", or whatever follows ``VOC`` in the folder's name.

    Raises:
        DataError: no such folder or list, a list that is empty or names an image twice, an annotation that is missing
            or cannot be read, or an object of a class that VOC does not have. Whether the images are there is for
            the loader to find.
    """
    folder = voc_folder(path, year=year)
    ids = _ids(folder, split)
    targets = np.stack([_targets(os.path.join(folder, "Annotations", f"{name}.xml")) for name in ids])
    files = [os.fsencode(os.path.join("JPEGImages", f"{name}.jpg")) for name in ids]
    return VOCSplit(images=FileSource(f"{folder} ({split})", folder, Paths.of(files)), ids=tuple(ids), targets=targets)


def voc_folder(path: str, *, year: str = "2007") -> str:
    """The folder of the year, which holds ``ImageSets``, ``Annotations`` and ``JPEGImages``.

    Raises:
        DataError: there is none; the message names the years that are there.
    """
    name, path = f"VOC{year}", os.path.expanduser(path)
    if not os.path.isdir(path):
        raise DataError(f"no such folder: {path}; give the VOCdevkit folder, or the one that holds it")
    here = os.path.basename(os.path.abspath(path))
    if here == name:
        return path
    for parent in (path, os.path.join(path, "VOCdevkit")):
        if os.path.isdir(os.path.join(parent, name)):
            return os.path.join(parent, name)
    found = {here, *os.listdir(path)}
    if os.path.isdir(os.path.join(path, "VOCdevkit")):
        found.update(os.listdir(os.path.join(path, "VOCdevkit")))
    years = sorted(entry.removeprefix("VOC") for entry in found if entry.startswith("VOC") and entry != "VOCdevkit")
    hint = f"it has the year {' and '.join(years)}" if years else "give the VOCdevkit folder, or the one that holds it"
    raise DataError(f"{path} has no {name}, nor VOCdevkit/{name}; {hint}")


def _ids(folder: str, split: str) -> list[str]:
    path = os.path.join(folder, _LISTS, f"{split}.txt")
    try:
        with open(path, encoding="utf-8") as file:
            ids = [line.split()[0] for line in file if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror}; {_other_lists(folder, split)}") from error
    if not ids:
        raise DataError(f"the list {path} names no images")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"the list {path} names {twice!r} twice")
    return ids


def _other_lists(folder: str, split: str) -> str:
    lists = os.path.join(folder, _LISTS)
    names = os.listdir(lists) if os.path.isdir(lists) else []
    # Those of one class (dog_train.txt) are not lists of images to show.
    splits = sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt") and "_" not in name)
    near = difflib.get_close_matches(split, splits, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(splits)}" if splits else f"a VOC folder has its lists in {_LISTS}"


def _targets(path: str) -> NDArray[np.int8]:
    """(20,): 1, -1, or 0 where every object of the class is difficult."""
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"cannot read the annotation {path}: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"the annotation {path} is no XML: {error}") from error
    targets = np.full(len(VOC_CLASSES), -1, dtype=np.int8)
    # Direct children only: a person's parts are objects below an object.
    for found in root.findall("object"):
        name = (found.findtext("name") or "").strip()
        if name not in _PLACE:
            near = difflib.get_close_matches(name, VOC_CLASSES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"the annotation {path} has an object {name!r}, which is no class of VOC{hint}")
        # Some objects of 2012 say nothing of it.
        difficult = (found.findtext("difficult") or "0").strip() == "1"
        targets[_PLACE[name]] = max(targets[_PLACE[name]], 0 if difficult else 1)
    return targets
