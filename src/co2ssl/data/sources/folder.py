"""A folder of images, nested to any depth."""

from __future__ import annotations

import difflib
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.sources.files import FileSource, Paths
from co2ssl.data.sources.listing import EXTENSIONS, list_images, read_listing, write_listing
from co2ssl.data.sources.protocol import DataError
from co2ssl.distributed import is_main

SPLIT_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (("train", "training"),),
    "val": (("val", "valid", "validation", "dev", "eval"), ("test", "testing")),
}
"""For each split the parts of a data set that it may be, each with the words for it; the first that is there counts."""
SPLIT_FOLDERS = {split: tuple(word for part in parts for word in part) for split, parts in SPLIT_PARTS.items()}
"""Names of the folders (and in lists, of the parts) that belong to a split, in lower case."""
MOST_LOOKED_AT = 1_000
"""Entries of a folder among which its parts are looked for in any case of letters: a flat one may have a million."""


class FolderSource(FileSource):
    """Every image file below a folder, in an order that does not depend on the file system.

    What is passed over, and how links are followed, says :func:`co2ssl.data.sources.listing.list_images`. Labels are
    given only where they are unambiguous: every image below a first-level folder, of which there are at least two.

    Args:
        folder: where the images are.
        only: names of the first-level folders to take; None for everything.
        listing_folder: where the listing is kept: it is taken from there while it holds, else made anew and, where that
            is allowed, left there.

    Raises:
        DataError: no folder, one that cannot be read, or no image in it.
    """

    def __init__(
        self, folder: str, *, only: Sequence[str] | None = None, listing_folder: str | Path | None = None
    ) -> None:
        require_folder(folder)
        kept_in = None if listing_folder is None else Path(listing_folder)
        kept = None if kept_in is None else read_listing(kept_in, folder, only)
        self.listing = list_images(folder, only) if kept is None else kept
        self.only = only
        if not len(self.listing.images):
            raise DataError(_no_images_message(folder))
        classes, labels = folder_labels(self.listing.images)
        super().__init__(folder, folder, self.listing.images, labels, classes)
        if kept is None and kept_in is not None and is_main() and os.access(kept_in, os.W_OK):
            self.keep_listing(kept_in)

    @property
    def classes_without_images(self) -> tuple[str, ...]:
        """Where first-level folders are classes, those below which there is no image: no label is theirs."""
        if self.classes is None:
            return ()
        first_level = (os.fsdecode(folder) for folder in self.listing.folders if folder and b"/" not in folder)
        return tuple(sorted(set(first_level) - set(self.classes)))

    def keep_listing(self, folder: str | Path) -> None:
        """Write down in ``folder`` which files there are, for the next start. Raises :class:`DataError`."""
        write_listing(self.listing, Path(folder), self.folder, self.only)


def split_folder(folder: str, split: str) -> str:
    """``folder`` itself, or its subfolder for the split where it has a ``train`` folder and one to measure on."""
    found = _split_parts(folder)
    return found[split] if len(found) == len(SPLIT_FOLDERS) else folder


def split_part(folder: str, split: str) -> str | None:
    """The subfolder that has one of the split's names, in any case of letters, or None."""
    return _split_parts(folder).get(split)


def _split_parts(folder: str) -> dict[str, str]:
    """For each split that has one, its subfolder: of several the one whose name comes first among the split's."""
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    try:
        with os.scandir(folder) as entries:
            inside = {entry.name for entry in islice(entries, MOST_LOOKED_AT) if entry.name.lower() in known}
    except OSError:
        # Whoever needs the folder says what is wrong with it.
        return {}
    # Of names that differ by case alone, the one in lower case comes last, and counts.
    paths = [os.path.join(folder, name) for name in [*sorted(inside), *sorted(known)]]
    places = {os.path.basename(path).lower(): path for path in paths if os.path.isdir(path)}
    found = {split: [places[name] for name in names if name in places] for split, names in SPLIT_FOLDERS.items()}
    return {split: parts[0] for split, parts in found.items() if parts}


def folder_labels(paths: Paths) -> tuple[tuple[str, ...] | None, NDArray[np.int64] | None]:
    """Classes and (len(paths),) labels by first-level folder; None and None where they would be ambiguous.

    Args:
        paths: relative, in the order of their bytes.
    """
    names: list[bytes] = []
    starts: list[int] = []
    place = 0
    while place < len(paths):
        name, slash, _ = paths[place].partition(b"/")
        if not slash:
            return None, None
        names.append(name)
        starts.append(place)
        # What begins with "name/" stands together, and before what begins with "name0", the next byte.
        place = bisect_left(paths, name + b"0", lo=place)
    if len(names) < 2:
        return None, None
    # "cat+dog/" comes before "cat/", but as a name after it.
    order = sorted(range(len(names)), key=names.__getitem__)
    labels = np.empty(len(names), dtype=np.int64)
    labels[order] = np.arange(len(names))
    return tuple(os.fsdecode(names[number]) for number in order), np.repeat(labels, np.diff([*starts, len(paths)]))


def require_folder(folder: str) -> None:
    """Refuse what is not a folder. Raises :class:`DataError` with near matches."""
    if os.path.isdir(folder):
        return
    if os.path.exists(folder):
        raise DataError(f"{folder} is a file; give the folder that holds the images, or a .txt or .csv list of them")
    near = difflib.get_close_matches(folder, ["demo", *_neighbours(folder)], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"no such folder: {folder}{hint}")


def _neighbours(folder: str) -> list[str]:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent or "."):
        return []
    return [os.path.join(parent, entry.name) for entry in os.scandir(parent or ".") if entry.is_dir()]


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
