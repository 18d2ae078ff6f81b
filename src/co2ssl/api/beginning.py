"""What a new run is, settled and checked before anything is written: settings, images, folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from co2ssl.api import runs
from co2ssl.api.build import check_size
from co2ssl.api.images import Images, open_images, spec_of
from co2ssl.api.machine import build_device, check_precision, describe_machine, sample_sizes
from co2ssl.api.resuming import sampled_sizes
from co2ssl.config import (
    DEFAULT_RECIPE,
    Adapted,
    DataRecord,
    Origin,
    Resolved,
    RunConfig,
    RunOptions,
    adapt,
    adapted_from_plain,
    duration,
    load_recipe,
    require_shared,
    resolve_options,
)
from co2ssl.data.sources import FolderSource, Source
from co2ssl.data.sources.folder import split_part
from co2ssl.data.sources.opening import PREFIXES
from co2ssl.distributed import barrier, from_main, is_main, world_size
from co2ssl.errors import UsageError, UserError

Say = Callable[[str], None]


def images_in_words(data: Images, source: Source) -> str:
    """How many images there are to learn from, and, where ``data`` is a folder of two parts, what is left alone."""
    found = f"{len(source):,} images of {source.name}"
    if not isinstance(source, FolderSource) or not isinstance(data, str | Path):
        return found
    prefix, colon, path = str(data).partition(":")
    given = os.path.expanduser(path if colon and prefix in PREFIXES else str(data))
    if os.path.abspath(source.folder) == os.path.abspath(given):
        return found
    other = split_part(given, "val")
    if other is None:
        return found
    return f"{found}; only this part of {given} is used to pretrain, {other} is left for `co2ssl evaluate`"


def new_run(
    data: Images | None,
    out: str | Path | None,
    recipe: str | None,
    auto: bool | None,
    given: Mapping[str, Any],
    say: Say,
) -> tuple[Path, RunConfig, Source]:
    """Settle a new run. Every process calls it, and all wait until the main one has made the folder.

    Args:
        data, out, recipe, auto: as for :func:`co2ssl.api.pretrain`.
        given: fields of ``Recipe`` and of ``RunOptions``.
        say: where lines for a person go.

    Returns:
        The folder, which is there and otherwise as it was; what is to be run, checked; and the images.

    Raises:
        UsageError: settings that do not go together, with the images or with this machine.
        UserError: images that cannot be opened, or a folder that cannot be made.
    """
    if data is None or out is None:
        raise UsageError("pretrain needs images and a run folder: co2ssl pretrain DATA --out RUN")
    if auto is None:
        auto = recipe is None
    recipe_values = {name: value for name, value in given.items() if name not in RunOptions.model_fields}
    option_values = {name: value for name, value in given.items() if name in RunOptions.model_fields}
    resolved = load_recipe(recipe or DEFAULT_RECIPE, overrides=recipe_values, check=not auto)
    options = resolve_options(option_values)
    origins = {name: Origin(kind="option") for name in option_values}
    source = open_images(data, download=options.download)
    device = build_device(options)
    say(images_in_words(data, source))
    if auto:
        adapted = _adapted(resolved, options, source, device, set(option_values))
        resolved, options = adapted.resolved, adapted.options
        origins.update(adapted.option_origins)
        say(f"{resolved.name}, fitted to {len(source):,} images and this machine:")
        for change in adapted.changes:
            say(f"  {change}")
        if adapted.estimated_seconds is not None:
            say(f"  about {duration(adapted.estimated_seconds)} in all")
    check_size(resolved.recipe, source)
    require_shared(resolved.recipe, world_size())
    check_precision(options, device)
    config = RunConfig(
        resolved=resolved,
        options=options,
        data=DataRecord(
            source=spec_of(data, source),
            num_images=len(source),
            fingerprint=source.fingerprint(),
            sizes=sampled_sizes(source),
        ),
        option_origins=origins,
    )
    if is_main():
        runs.made_folder(out)
    barrier()
    return Path(out), config, source


def _adapted(resolved: Resolved, options: RunOptions, source: Source, device: torch.device, given: set[str]) -> Adapted:
    """The recipe fitted to the images and to the machine of the main process, for all processes: theirs may differ.

    Raises:
        UsageError: the main process finds that it cannot run; on every process.
    """
    told: dict[str, Any] = {}
    if is_main():
        try:
            told["adapted"] = adapt(
                resolved,
                options,
                num_images=len(source),
                image_sizes=sample_sizes(source),
                machine=describe_machine(device),
                given_options=given,
            ).as_plain()
        except UserError as error:
            told["error"] = str(error)
    told = from_main(told)
    if "error" in told:
        raise UsageError(told["error"])
    return adapted_from_plain(told["adapted"], resolved, options)
