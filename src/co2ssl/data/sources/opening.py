"""What ``DATA`` on the command line may be."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from co2ssl.data.sources.demo import open_demo
from co2ssl.data.sources.folder import SPLIT_FOLDERS, FolderSource, require_folder, split_folder
from co2ssl.data.sources.lists import LIST_ENDINGS, open_list
from co2ssl.data.sources.named import CIFAR10, CIFAR100, open_cifar, open_imagenet, open_imagenet100, open_voc
from co2ssl.data.sources.protocol import DataError, Source

PREFIXES = ("cifar10", "cifar100", "imagenet", "imagenet100", "voc")
DOWNLOADED = ("cifar10", "cifar100", "voc")
"""Prefixes of what torchvision can fetch."""
PYTHON = "python:"
"""How a run calls images that a Python program handed over: nothing that can be opened by name."""


def open_source(
    spec: str, split: str = "train", *, download: bool = False, listing_folder: str | Path | None = None
) -> Source:
    """The images that ``spec`` names.

    Args:
        spec: one of

            * a folder of images, nested to any depth (labelled if every image lies below one of at least two class
              folders);
            * a list of paths, ``.txt`` or ``.csv`` (:func:`co2ssl.data.sources.lists.open_list`);
            * ``cifar10:PATH`` or ``cifar100:PATH``: the Python batches, or a tree of files;
            * ``imagenet:PATH`` or ``imagenet100:PATH``: class folders below train and val;
            * ``voc:PATH``: VOCdevkit with one year in it, or VOCdevkit/VOC2007 or VOC2012;
            * ``demo``: built in.

            A ``~`` at the beginning of a path is the home folder.
        split: "train" or "val". Picks a subfolder where the folder has both (``train``, and ``val`` or ``test``), and
            rows of a list that says which; any other folder or list is taken as it is.
        download: fetch it to PATH first, where it is not there yet.
        listing_folder: where listings of folders are kept for the next start, such as a run's folder; None: nowhere.

    Raises:
        DataError: nothing there, nothing usable there, or an unknown prefix; the message says what to do.
    """
    if split not in SPLIT_FOLDERS:
        raise DataError(f"no split is called {split!r}; there are train and val")
    prefix, path = _parted(spec)
    if download and prefix not in DOWNLOADED:
        fetched = ", ".join(f"{name}:PATH" for name in DOWNLOADED)
        raise DataError(f"--download cannot fetch {spec}; it fetches {fetched}")
    if prefix in ("cifar10", "cifar100"):
        kind = CIFAR10 if prefix == "cifar10" else CIFAR100
        return open_cifar(kind, path, split, download=download, listing_folder=listing_folder)
    if prefix == "imagenet":
        return open_imagenet(path, split, listing_folder=listing_folder)
    if prefix == "imagenet100":
        return open_imagenet100(path, split, listing_folder=listing_folder)
    if prefix == "voc":
        return open_voc(path, split, download=download)
    if spec == "demo":
        return open_demo(split)
    if path.lower().endswith(LIST_ENDINGS) and os.path.isfile(path):
        return open_list(path, split)
    require_folder(path)
    return FolderSource(split_folder(path, split), listing_folder=listing_folder)


def full_spec(spec: str) -> str:
    """``spec`` with an absolute path in it, so that it means the same from another folder."""
    if spec == "demo" or spec.startswith(PYTHON):
        return spec
    prefix, path = _parted(spec)
    return f"{prefix}:{os.path.abspath(path)}" if prefix else os.path.abspath(path)


def _parted(spec: str) -> tuple[str, str]:
    """Prefix ("" without one) and path. Raises :class:`DataError` for a prefix that is not known."""
    prefix, colon, path = spec.partition(":")
    if colon and prefix in PREFIXES:
        # A shell leaves a ~ alone that stands after a prefix.
        return prefix, os.path.expanduser(path)
    if not colon or os.path.exists(spec) or "/" in prefix or len(prefix) < 2:
        return "", os.path.expanduser(spec)
    if spec.startswith(PYTHON):
        raise DataError(
            f"{path} was handed over by a Python program; do it again: co2ssl.pretrain(dataset, ...), "
            "with resume=RUN to continue"
        )
    near = difflib.get_close_matches(prefix.lower(), PREFIXES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}:{path}?" if near else f"known prefixes are {', '.join(PREFIXES)}"
    raise DataError(f"unknown kind of data {prefix!r} in {spec!r}; {hint}")
