"""To go on with a run: what may be given anew, whether anything is left to do, and whether the images are the same."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from co2ssl.api import runs
from co2ssl.api.images import Images, open_images
from co2ssl.api.runs import Run
from co2ssl.config import Origin, Recipe, RunOptions, resolve_options
from co2ssl.config.messages import option, require_known
from co2ssl.data.sources import FileSource, FolderSource, Source
from co2ssl.data.sources.folder import SPLIT_FOLDERS
from co2ssl.distributed import barrier, is_main
from co2ssl.errors import UsageError
from co2ssl.train.checkpoint import CheckpointFolder, write_atomically
from co2ssl.train.progress import warn

RESUMED_WITH = (
    "max_bad_share",
    "workers",
    "cache",
    "device",
    "download",
    "log_every",
    "checkpoint_every",
    "probe_every",
)
"""Options that may be given beside ``resume``: what a run may have been stopped by, and what another machine needs."""
SIZES_SAMPLED = 1024
"""Files whose sizes a run remembers. One by one all of them would be asked, the start of a large run would be slow."""


def run_to_resume(
    folder: str | Path, given: Mapping[str, Any], *, recipe: str | None = None, out: str | Path | None = None
) -> Run:
    """The run in a folder, where nothing was given beside it that it does not have.

    Args:
        folder: the run folder.
        given: fields of the recipe and the options.
        recipe: name of a recipe, or None.
        out: another name of the same folder, or None.

    Raises:
        UsageError: no run there, an unknown option, or one that the run has with another value.
    """
    run = runs.read_run(folder)
    require_known(given, [*Recipe.model_fields, *RunOptions.model_fields], what="option")
    values = {**run.config.resolved.recipe.model_dump(), **run.config.options.model_dump()}
    others = [name for name, value in given.items() if name not in RESUMED_WITH and value != values[name]]
    if "epochs" in others:
        raise UsageError(
            f"--epochs {given['epochs']}: the run in {run.folder} is one of {values['epochs']} epochs, over which its "
            "schedule was laid out at the start, so it cannot be made longer or shorter. Leave --epochs out, or start "
            "a new run with --out."
        )
    if recipe is not None and recipe != run.config.resolved.name:
        others.append("recipe")
    if out is not None and Path(out).resolve() != run.folder.resolve():
        others.append("out")
    if others:
        raise UsageError(
            f"--resume takes every setting from {run.folder / runs.CONFIG} but {', '.join(map(option, RESUMED_WITH))}; "
            f"leave out {', '.join(map(option, others))}, or start a new run, without --resume."
        )
    return run


def checkpoint_folder(run: Run) -> CheckpointFolder:
    """The checkpoints of a run."""
    return CheckpointFolder(
        run.folder / runs.CHECKPOINTS,
        architecture=_architecture(run.config.resolved.recipe),
        config_hash=run.config.hash,
    )


def is_complete(run: Run, saved: Mapping[str, Any] | None) -> bool:
    """Whether a run has had all its epochs, and what they lead to is there.

    Args:
        run: the run.
        saved: its last checkpoint, or None.
    """
    trained = saved is not None and int(saved["position"]["epoch"]) >= run.config.resolved.recipe.epochs
    return trained and all((run.folder / name).is_file() for name in (runs.BACKBONE, runs.REPORT))


def complete_in_words(run: Run) -> str:
    """What to say where there is nothing left to train."""
    epochs = run.config.resolved.recipe.epochs
    return "\n".join(
        [
            f"{run.folder} is complete, all {epochs} of {epochs} epochs: there is nothing to resume.",
            left_in_words(run),
            f"measure it:   co2ssl evaluate knn {shlex.quote(str(run.folder))} TRAIN VAL   (labelled images)",
            "A run cannot be made longer; for more epochs start a new one with --epochs and --out.",
        ]
    )


def left_in_words(run: Run) -> str:
    """Where the two things are that a run is for."""
    return f"the backbone: {run.folder / runs.BACKBONE}\nthe report:   {run.folder / runs.REPORT}"


def with_options(run: Run, given: Mapping[str, Any]) -> Run:
    """The run with the few options that may be given anew beside ``resume``; its ``config.yaml`` then says so too.

    Raises:
        UsageError: a value that is not allowed.
    """
    changed = {name: value for name, value in given.items() if name in RESUMED_WITH}
    if not changed:
        return run
    config = replace(
        run.config,
        options=resolve_options({**run.config.options.model_dump(), **changed}),
        option_origins={**run.config.option_origins, **{name: Origin(kind="option") for name in changed}},
    )
    if is_main():
        write_atomically(run.folder / runs.CONFIG, lambda file: file.write(config.to_yaml().encode("utf-8")))
    barrier()
    return replace(run, config=config)


def images_of(run: Run, data: Images | None) -> Source:
    """The images of a run, from where it found them, or from ``data``.

    Raises:
        UsageError: they are other images now.
        DataError: no images there.
    """
    source = open_images(
        run.config.data.source if data is None else data,
        download=run.config.options.download,
        listing_folder=run.folder,
    )
    if source.fingerprint() != run.config.data.fingerprint and (whole := _whole_folder(source, run)) is not None:
        source = whole
    if source.fingerprint() != run.config.data.fingerprint:
        raise UsageError(
            f"{source.name} no longer holds the images of this run ({run.config.data.num_images:,} then, "
            f"{len(source):,} now, or other names): a resumed run would not be the same run. "
            "Restore them, or start a new run with --out."
        )
    sizes = sampled_sizes(source)
    if run.config.data.sizes and sizes != run.config.data.sizes:
        # Bad images that were replaced are no reason to stop.
        warn(
            f"files of {source.name} have other sizes than when the run began: if they are other images under the same "
            "names, this is no longer the same run"
        )
    return source


def _whole_folder(source: Source, run: Run) -> Source | None:
    """The folder that ``source`` is a part of, where a run began on all of it: part names were fewer once."""
    if not isinstance(source, FolderSource):
        return None
    parent, name = os.path.split(os.path.abspath(source.folder))
    if name.lower() not in {known for names in SPLIT_FOLDERS.values() for known in names}:
        return None
    whole = FolderSource(parent, listing_folder=run.folder)
    return whole if whole.fingerprint() == run.config.data.fingerprint else None


def sampled_sizes(source: Source) -> str:
    """A hash of the sizes of some of the files that the images are in; empty where they are in none."""
    return source.sizes_hash(SIZES_SAMPLED) if isinstance(source, FileSource) else ""


def _architecture(recipe: Recipe) -> str:
    head = recipe.head if recipe.head == "linear" else f"mlp of {recipe.head_layers} layers, {recipe.head_hidden} wide"
    queue = "" if recipe.queue_size is None else f", queue {recipe.queue_size}"
    return (
        f"{recipe.method}, {recipe.arch}, width {recipe.width:g}, stem {recipe.stem}, head {head}, "
        f"embedding {recipe.embedding_dim}{queue}"
    )
