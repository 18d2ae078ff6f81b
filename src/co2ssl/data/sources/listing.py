"""Which image files lie below a folder: looked up once, kept in a file, and looked up again when a folder changed."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from co2ssl.data.sources.files import Paths
from co2ssl.data.sources.protocol import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""Endings of image files, in any case of letters."""
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""What operating systems and storage boxes leave in folders: copies, thumbnails and rubbish, no images of the set."""

# Raised when a file that an older version wrote would be misread.
_FORMAT = 1
_PARTS = ("key", "text", "lengths", "folders", "folder_lengths", "stamps")
# File systems keep times in steps of up to 2 s (FAT): a folder that changed so shortly before it was looked into may
# change again without a new time. Its time is kept as one that no folder has.
_SETTLED_NS = 2_000_000_000
_UNSETTLED = -1
_EXTENSIONS = tuple(map(os.fsencode, EXTENSIONS))
_SYSTEM_FOLDERS = frozenset(map(os.fsencode, SYSTEM_FOLDERS))


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files below a folder.

    Attributes:
        images: relative paths, in the order of their bytes, which does not depend on the file system.
        folders: relative paths of every folder that was looked into, the links' too.
        stamps: (len(folders), 2) int64, time of the last change in ns (-1 where it was too fresh to be trusted) and
            file number of each folder.
    """

    images: Paths
    folders: Paths
    stamps: NDArray[np.int64]


def list_images(root: str, only: Sequence[str] | None = None) -> Listing:
    """Every image file below ``root``; each real folder once.

    Hidden files and folders, and :data:`SYSTEM_FOLDERS`, are passed over. Links are followed, and a folder that can be
    reached twice is listed once, by its real path if that lies below ``root``. A link to a file that is not there is
    listed, so that it is reported as an image that could not be read.

    Args:
        root: where to look.
        only: names of folders in ``root`` to look into; None for all of it.

    Raises:
        DataError: a folder that may not, or cannot, be read.
    """
    images: list[bytes] = []
    folders: list[bytes] = []
    stamps: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    # Links wait until every real folder has been seen, and both come in order: which of two ways to a folder counts is
    # then fixed. The last one in a list is the next one out.
    real = [b""] if only is None else sorted(map(os.fsencode, only), reverse=True)
    links: list[bytes] = []
    while real or links:
        relative = (real or links).pop()
        path = os.path.join(os.fsencode(root), relative)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            settled = status.st_mtime_ns < time.time_ns() - _SETTLED_NS
            inside = _look_into(path)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since its parent was looked into.
            continue
        except OSError as error:
            reason = "no permission to read" if isinstance(error, PermissionError) else "cannot read"
            raise DataError(f"{reason} the folder {os.fsdecode(path)} ({error.strerror})") from error
        folders.append(relative)
        stamps.append((status.st_mtime_ns if settled else _UNSETTLED, status.st_ino))
        prefix = relative + b"/" if relative else b""
        images += [prefix + name for name in inside.images]
        real += [prefix + name for name in sorted(inside.folders, reverse=True)]
        links += [prefix + name for name in sorted(inside.links, reverse=True)]
    images.sort()
    return Listing(Paths.of(images), Paths.of(folders), np.array(stamps, dtype=np.int64).reshape(-1, 2))


def write_listing(listing: Listing, folder: Path, root: str, only: Sequence[str] | None = None) -> None:
    """Keep a listing of ``root`` in ``folder``, as plain arrays, in one step.

    Raises:
        DataError: it cannot be written.
    """
    parts: dict[str, Any] = {
        "key": _key(root, only),
        "text": listing.images.text,
        "lengths": _lengths(listing.images),
        "folders": listing.folders.text,
        "folder_lengths": _lengths(listing.folders),
        "stamps": listing.stamps,
    }
    path = listing_path(folder, root, only)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with beside.open("wb") as file:
                np.savez(file, **parts)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the list of images to {path}: {error.strerror}") from error


def read_listing(folder: Path, root: str, only: Sequence[str] | None = None) -> Listing | None:
    """The listing of ``root`` that is kept in ``folder``; None if there is none, or it is damaged or out of date.

    It holds while no folder in it has changed, by its time of change and its file number: files that came, went or got
    another name change the time of their folder. Nothing is asked of the files one by one.
    """
    try:
        with np.load(listing_path(folder, root, only), allow_pickle=False) as file:
            parts = {name: np.asarray(file[name]) for name in _PARTS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    images, folders = _paths(parts["text"], parts["lengths"]), _paths(parts["folders"], parts["folder_lengths"])
    if images is None or folders is None or not np.array_equal(parts["key"], _key(root, only)):
        return None
    listing = Listing(images, folders, parts["stamps"])
    return listing if _still_holds(listing, root) else None


def listing_path(folder: Path, root: str, only: Sequence[str] | None = None) -> Path:
    """Where the listing of ``root`` is kept in ``folder``: several sets (train, val) can be."""
    return folder / f"listing-{_hash(os.path.abspath(root), only and tuple(only))[:8]}.npz"


def _still_holds(listing: Listing, root: str) -> bool:
    top = os.fsencode(root)
    if listing.stamps.shape != (len(listing.folders), 2):
        return False
    for relative, (changed, number) in zip(listing.folders, listing.stamps.tolist(), strict=True):
        try:
            status = os.stat(os.path.join(top, relative))
        except OSError:
            return False
        if (status.st_mtime_ns, status.st_ino) != (changed, number):
            return False
    return True


@dataclass(frozen=True)
class _Inside:
    images: list[bytes]
    folders: list[bytes]
    links: list[bytes]


def _look_into(folder: bytes) -> _Inside:
    """What is directly in a folder: names of image files, of real folders, and of links to folders, in no order."""
    inside = _Inside([], [], [])
    # An entry knows its kind without a question to the file system, on which a million files would spend seconds.
    for entry in os.scandir(folder):
        name = entry.name
        if name.startswith(b".") or name in _SYSTEM_FOLDERS:
            continue
        image = name.lower().endswith(_EXTENSIONS)
        if image and entry.is_file(follow_symlinks=False):
            inside.images.append(name)
        elif entry.is_dir(follow_symlinks=False):
            inside.folders.append(name)
        elif entry.is_symlink() and _leads_to_folder(entry):
            inside.links.append(name)
        elif image and entry.is_symlink():
            inside.images.append(name)
    return inside


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or through a folder that may not be read.
        return False


def _lengths(paths: Paths) -> NDArray[np.int32]:
    return np.diff(paths.ends, prepend=0).astype(np.int32)


def _paths(text: NDArray[np.uint8], lengths: NDArray[np.int32]) -> Paths | None:
    """The paths of these lengths, or None where text and lengths do not belong together."""
    if text.dtype != np.uint8 or lengths.dtype != np.int32 or text.ndim != 1 or lengths.ndim != 1:
        return None
    if len(lengths) and lengths.min() < 0:
        return None
    ends = np.cumsum(lengths, dtype=np.int64)
    return Paths(text, ends) if (int(ends[-1]) if len(ends) else 0) == len(text) else None


def _key(root: str, only: Sequence[str] | None) -> NDArray[np.uint8]:
    """What a listing is of, and by which rules it was made."""
    text = _hash(_FORMAT, EXTENSIONS, SYSTEM_FOLDERS, os.path.abspath(root), only and tuple(only))
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
