"""The images of a run: from what a person named or handed over to a source, and which of them were unusable."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from co2ssl.api import runs
from co2ssl.data.cache import cached
from co2ssl.data.sources import DatasetSource, FolderSource, Source, full_spec, open_source
from co2ssl.data.sources.datasets import Numbered
from co2ssl.data.sources.opening import PYTHON
from co2ssl.distributed import barrier, is_main
from co2ssl.errors import UserError
from co2ssl.train.checkpoint import write_atomically

Images: TypeAlias = str | Path | Source | Numbered
"""What is accepted as images: the name of a place, a source, or a data set with a length and numbered items."""

CACHE = "cache"
"""Folder in the run folder that holds the decoded images."""

_COLUMNS = ("image", "reason")


def open_images(
    data: Images, split: str = "train", *, download: bool = False, listing_folder: Path | None = None
) -> Source:
    """A source of the images.

    Args:
        data: as for :func:`co2ssl.data.sources.open_source`; a source; or a ``torch.utils.data.Dataset``.
        split: "train" or "val", where ``data`` is a name.
        download: fetch them first, where ``data`` is the name of something that can be fetched.
        listing_folder: where the listing of a folder is kept for the next start.

    Raises:
        DataError: no images there, or none that can be used.
    """
    if isinstance(data, str | Path):
        return open_source(str(data), split, download=download, listing_folder=listing_folder)
    return data if isinstance(data, Source) else DatasetSource(data)


def spec_of(data: Images, source: Source) -> str:
    """What ``config.yaml`` says of where the images are: a name with an absolute path, or what was handed over."""
    return full_spec(str(data)) if isinstance(data, str | Path) else f"{PYTHON}{source.name}"


def keep_listing(source: Source, folder: Path) -> None:
    """Leave the listing of a folder of images in ``folder``, so that the next start need not look for them again."""
    if isinstance(source, FolderSource) and is_main():
        source.keep_listing(folder)


def cached_images(source: Source, folder: Path, *, workers: int, say: Callable[[str], None]) -> Source:
    """The same images, decoded once by the main process into a file in ``folder`` that all processes read."""
    if not is_main():
        barrier()
    found = cached(source, folder, workers=workers, say=say)
    if is_main():
        barrier()
    return found


def name_bad_images(folder: Path, bad: Sequence[tuple[str, str]], say: Callable[[str], None]) -> None:
    """Write down which images could not be read, and say how many, those of before a resume too; for one process.

    Raises:
        UserError: the file cannot be read or written; what it held before is untouched.
    """
    if not bad:
        return
    path = folder / runs.BAD_IMAGES
    named = dict([*_named_before(path), *bad])
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(named.items())
    # Names that are not UTF-8 are written with the bytes they have on the disk.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(content))
    say(f"{len(named)} unreadable image{'s' if len(named) > 1 else ''} skipped, named in {path}:")
    for which, why in bad[:3]:
        say(f"  {which}: {why}".encode("utf-8", "backslashreplace").decode())


def bad_images_before(folder: Path) -> list[tuple[str, str]]:
    """Which images earlier parts of a run in ``folder`` could not read, and why."""
    return list(_named_before(folder / runs.BAD_IMAGES))


def _named_before(path: Path) -> Sequence[tuple[str, str]]:
    """The rows that the run wrote before it was interrupted."""
    if not path.is_file():
        return ()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2 and tuple(row) != _COLUMNS]
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}. Mend it or move it away, and resume"
        ) from error
