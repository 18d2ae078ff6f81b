"""For protocols that train on labels: which images have them, and networks with fresh weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path

import torch
from torch import nn

from co2ssl.api.backbones import PIXELS, TORCHVISION, UNTRAINED, WEIGHTS, Representation
from co2ssl.api.build import build_backbone
from co2ssl.api.paper import IMAGENET, data_called
from co2ssl.api.runs import read_run
from co2ssl.api.weights import fresh_backbone, torchvision_names
from co2ssl.data.sources import Source
from co2ssl.distributed import is_main
from co2ssl.errors import UsageError
from co2ssl.evaluate.label_share import DRAW, DRAWS, PUBLISHED
from co2ssl.evaluate.label_subsets import (
    PUBLISHED_HASHES,
    LabelSubset,
    draw_subset,
    fetched_list,
    list_in,
    listed_subset,
    names_of,
)
from co2ssl.evaluate.options import LabelledOptions
from co2ssl.train.checkpoint import save_backbone, write_atomically
from co2ssl.train.progress import warn


def subsets_of(source: Source, options: LabelledOptions) -> list[LabelSubset | None]:
    """The labelled images of each training; None: all of them. With a list they are the same each time.

    Raises:
        UsageError, DataError: as :mod:`co2ssl.evaluate.label_subsets` has it.
    """
    path = label_list(source, options.label_list, options.share)
    if path is not None:
        return [listed_subset(source, path, options.share)] * (options.draws or DRAWS)
    if options.share is None:
        return [None] * (options.draws or 1)
    seeds = range(options.seed, options.seed + (options.draws or DRAWS))
    return [draw_subset(source, options.share, seed=seed) for seed in seeds]


def label_list(source: Source, asked: str | Path | None, share: str | None) -> Path | None:
    """The list that names the labelled images; None: there is none, and a share is drawn with a seed.

    Args:
        source: labelled images. Of ImageNet's 1 % and 10 %, SimCLR's lists are taken where nothing is asked for.
        asked: "simclr", "draw", a list, or a folder with SimCLR's two.
        share: of the labels; None: all of them, or whatever the list names.

    Raises:
        UsageError, DataError: SimCLR has no list of the share, or it cannot be fetched, or is not in the folder.
    """
    if asked is None:
        return fetched_list(share) if share in PUBLISHED_HASHES and data_called(source.classes) == IMAGENET else None
    if str(asked) == DRAW:
        return None
    if str(asked) == PUBLISHED:
        return fetched_list(share)
    return list_in(asked, share) if Path(asked).is_dir() else Path(asked)


def keep_drawn_lists(result: Path, source: Source, subsets: Sequence[LabelSubset | None]) -> None:
    """Write the names of each drawn subset beside the result, as ``--label-list`` takes them."""
    for subset in subsets:
        if subset is None or subset.seed is None or not is_main():
            continue
        result.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}\n" for name in names_of(source, subset)).encode("utf-8", "surrogateescape")
        path = result.with_suffix(f".seed-{subset.seed}.txt")
        write_atomically(path, methodcaller("write", text))


def keep_first(path: Path | None, number: int, backbone: nn.Module) -> None:
    """Write the backbone of the first training to ``path``, where there is one."""
    if path is not None and number == 0 and is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_backbone(path, backbone)


def require_network(representation: Representation) -> None:
    """Refuse the pixels themselves, which have nothing to train. Raises :class:`UsageError`."""
    if representation.name.startswith(PIXELS):
        run = representation.name.removeprefix(PIXELS)
        raise UsageError(f"{representation.name} has no network to train: give {run}, or {UNTRAINED}{run}")


def fresh_backbones(representation: Representation, arch: str | None) -> Callable[[int], nn.Module]:
    """A function that makes networks of the representation's architecture, with first weights by a seed.

    A module that a program handed over is copied with the weights that it has, whatever the seed, which is warned of:
    how fresh ones are drawn is not known.

    Args:
        representation: what was named.
        arch: of ``weights:PATH``.
    """
    name = representation.name.removeprefix(UNTRAINED)
    make: Callable[[], nn.Module]
    if name.startswith(TORCHVISION):
        make = partial(fresh_backbone, name.removeprefix(TORCHVISION), known=torchvision_names())
    elif name.startswith(WEIGHTS):
        assert arch is not None, "representation() refuses a file of weights without it"
        make = partial(fresh_backbone, arch)
    elif representation.found or representation.kind:
        make = partial(build_backbone, read_run(name).config.resolved.recipe)
    else:
        warn(
            f"{name} is an object of a program, and how its first weights are drawn is not known: every training "
            "begins with the weights it has"
        )
        make = partial(copy.deepcopy, representation.backbone)
    return partial(_seeded, make)


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make()
