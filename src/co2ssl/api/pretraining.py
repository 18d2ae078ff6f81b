"""``pretrain``: from images to a trained backbone in a run folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from co2ssl.api import runs
from co2ssl.api.build import (
    build_method,
    build_objective,
    build_schedule,
    build_views,
    check_size,
    evaluation_resize,
)
from co2ssl.api.images import (
    CACHE,
    Images,
    bad_images_before,
    cached_images,
    keep_listing,
    name_bad_images,
    open_images,
    spec_of,
)
from co2ssl.api.machine import build_device, check_precision, describe_machine, sample_sizes
from co2ssl.api.reporting import write_run_report
from co2ssl.api.resuming import (
    checkpoint_folder,
    complete_in_words,
    images_of,
    is_complete,
    left_in_words,
    run_to_resume,
    sampled_sizes,
    with_options,
)
from co2ssl.api.runs import Run
from co2ssl.config import (
    DEFAULT_RECIPE,
    Adapted,
    DataRecord,
    Origin,
    Recipe,
    Resolved,
    RunConfig,
    RunOptions,
    adapt,
    adapted_from_plain,
    duration,
    load_recipe,
    require_shared,
    resolve_options,
    workers_per_process,
)
from co2ssl.data.loader import Loader
from co2ssl.data.sources import FolderSource, Source
from co2ssl.data.sources.folder import split_part
from co2ssl.data.sources.opening import PREFIXES
from co2ssl.distributed import barrier, from_main, is_main, process_group, world_size
from co2ssl.encoders.batch_norm import average_running_statistics
from co2ssl.errors import UsageError, UserError
from co2ssl.evaluate.features import EvaluationError
from co2ssl.evaluate.probe import Probe, knn_probe, spread_probe
from co2ssl.methods.method import Method
from co2ssl.train.checkpoint import CheckpointFolder, save_backbone, write_atomically
from co2ssl.train.health import CollapseWatch, collapse_advice
from co2ssl.train.lock import only_trainer
from co2ssl.train.log import MetricsLog
from co2ssl.train.loop import Rhythm, train
from co2ssl.train.optim import build_optimizer
from co2ssl.train.progress import Progress, warn
from co2ssl.train.state import DivergedError
from co2ssl.train.stop import Interrupted

Say = Callable[[str], None]

PATIENCE = timedelta(days=1)
"""How long processes wait for the main one, which alone decodes into a cache and measures."""


def pretrain(
    data: Images | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | None = None,
    auto: bool | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
    say: Say | None = None,
    **options: Any,
) -> Run:
    """Train a backbone on unlabelled images.

    Args:
        data: a folder of images, nested to any depth, labels not needed; a ``.txt`` or ``.csv`` list of paths;
            "cifar10:PATH", "cifar100:PATH", "imagenet:PATH", "imagenet100:PATH" or "voc:PATH"; "demo"; or, handed over,
            a ``torch.utils.data.Dataset`` without random transforms, or a ``co2ssl.data.sources.Source``. A name may be
            left out with ``resume``.
        out: the run folder to make. It ends up with ``config.yaml``, ``metrics.jsonl``, ``checkpoints/``,
            ``backbone.safetensors`` and ``report.html``.
        recipe: a name from ``co2ssl methods``, with or without "+co2", or the path of a YAML file.
        auto: fit the recipe to the images and this machine, and say what changed. None: only where no recipe is named.
        resume: a run folder to continue from its last checkpoint; every setting is then read from it, so it cannot be
            made longer. Of a run that is complete nothing is trained.
        quiet: no progress.
        say: where lines for a person go; None prints them to stderr, unless ``quiet``.
        **options: any field of ``Recipe`` or ``RunOptions`` (``epochs=100``, ``batch_size=256``, ``device="cuda"``).

    Returns:
        The finished run.

    Raises:
        UserError: whatever the person can mend, in one sentence; nothing finished is lost.
    """
    say = say or (lambda text: _say(text, quiet))
    if resume and auto:
        raise UsageError(
            "--auto fits a recipe before a run begins, and --resume takes every setting as it was: leave --auto out."
        )
    with process_group(patience=PATIENCE):
        if not resume:
            folder, config, source = _new(data, out, recipe, auto, options, say)
            # Before anything is written, so that of two commands that begin together one is refused.
            with only_trainer(folder) as locked:
                if is_main():
                    runs.new_folder(folder, locked=locked)
                    write_atomically(folder / runs.CONFIG, lambda file: file.write(config.to_yaml().encode("utf-8")))
                    keep_listing(source, folder)
                barrier()
                run = Run(folder=folder, config=config)
                _train(run, source, checkpoint_folder(run), saved=None, quiet=quiet, say=say)
            return run
        run = run_to_resume(resume, options, recipe=recipe, out=out)
        # Before the folder of checkpoints is opened, which removes what it takes for left over.
        with only_trainer(run.folder):
            checkpoints = checkpoint_folder(run)
            saved = checkpoints.load()
            if is_complete(run, saved):
                say(complete_in_words(run))
                return run
            run = with_options(run, options)
            check_precision(run.config.options, build_device(run.config.options))
            source = images_of(run, data)
            say(images_in_words(run.config.data.source if data is None else data, source))
            _train(run, source, checkpoints, saved=saved, quiet=quiet, say=say)
        return run


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


def _new(
    data: Images | None,
    out: str | Path | None,
    recipe: str | None,
    auto: bool | None,
    given: Mapping[str, Any],
    say: Say,
) -> tuple[Path, RunConfig, Source]:
    """The folder of a new run, which is there; what is to be run, checked; and the images."""
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


def _train(
    run: Run,
    source: Source,
    checkpoints: CheckpointFolder,
    *,
    saved: Mapping[str, Any] | None,
    quiet: bool,
    say: Say,
) -> None:
    """Everything from the configuration, or from what the last checkpoint holds, to the finished folder."""
    recipe, options = run.config.resolved.recipe, run.config.options
    device = build_device(options)
    method = build_method(recipe, seed=options.seed)
    assert isinstance(method, nn.Module)
    method.to(device)
    if options.compile:
        backbone = method.encoder.backbone
        assert isinstance(backbone, nn.Module)
        backbone.compile()
    loader = _loader(run, source, method, say)
    steps_per_epoch = max(1, loader.steps_per_epoch // recipe.accumulate)
    probes = _probes(loader.source, recipe, options, device, total_steps=recipe.epochs * steps_per_epoch)
    log = MetricsLog(run.folder / runs.METRICS)
    try:
        train(
            method,
            build_objective(recipe, steps_per_epoch=steps_per_epoch),
            loader,
            optimizer=build_optimizer(
                recipe.optimizer,
                method,
                lr=recipe.lr,
                momentum=recipe.optimizer_momentum,
                weight_decay=recipe.weight_decay,
            ),
            learning_rate=build_schedule(recipe, steps_per_epoch=steps_per_epoch),
            epochs=recipe.epochs,
            device=device,
            log=log,
            progress=Progress(epochs=recipe.epochs, steps_per_epoch=steps_per_epoch, quiet=quiet),
            precision=options.precision,
            accumulate=recipe.accumulate,
            probes=probes,
            rhythm=Rhythm(
                log_every=options.log_every,
                checkpoint_every=options.checkpoint_every,
                probe_every=options.probe_every,
            ),
            checkpoints=checkpoints,
            saved=saved,
        )
    except (Interrupted, DivergedError):
        # Raised on all processes after the same step: the main one is told what the others could not read.
        loader.share_bad_images()
        raise
    finally:
        loader.close()
        try:
            log.close()
        finally:
            if is_main():
                # Said even where progress is quiet.
                name_bad_images(run.folder, loader.bad_images, warn if quiet else say)
    if quiet:
        # Otherwise progress has shown it.
        _warn_of_collapse(probes)
    _finish(run, method, say)


def _finish(run: Run, method: Method, say: Say) -> None:
    """Leave what the run is for."""
    average_running_statistics(method.encoder)
    if is_main():
        save_backbone(run.folder / runs.BACKBONE, method.encoder.backbone)  # type: ignore[arg-type]
        write_run_report(run)
        say(left_in_words(run))
    barrier()


def _loader(run: Run, source: Source, method: Method, say: Say) -> Loader:
    """Batches of the method's views of the images, which are decoded first where they are to be cached."""
    recipe, options = run.config.resolved.recipe, run.config.options
    workers = options.workers if options.workers is not None else workers_per_process()
    if options.cache:
        source = cached_images(source, run.folder / CACHE, workers=workers, say=say)
    return Loader(
        source,
        build_views(recipe, method),
        batch_size=recipe.batch_size,
        seed=options.seed,
        workers=workers,
        max_bad_share=options.max_bad_share,
        known_bad=bad_images_before(run.folder),
        views_on=options.views_on,
    )


def _probes(
    source: Source, recipe: Recipe, options: RunOptions, device: torch.device, *, total_steps: int
) -> Sequence[Probe]:
    """What is measured every few epochs: the spread of the embeddings, and with labels kNN, on training images only."""
    if options.probe_every == 0:
        return ()
    size: dict[str, Any] = {
        "image_size": recipe.image_size,
        "resize": evaluation_resize(recipe.image_size),
        "seed": options.seed,
        "device": device,
        "precision": options.precision,
    }
    advice = collapse_advice(
        consistency_weight=recipe.consistency_weight, ramp_epochs=recipe.consistency_ramp_epochs, epochs=recipe.epochs
    )
    probes: list[Probe] = [CollapseWatch(spread_probe(source, **size, advice=advice), total_steps=total_steps)]
    if source.labels is not None and source.classes is not None and len(source.classes) > 1:
        try:
            probes.append(knn_probe(source, **size))
        except EvaluationError as error:
            # Labels are not needed to train; folders may be no classes.
            warn(str(error))
    return probes


def _warn_of_collapse(probes: Sequence[Probe]) -> None:
    for probe in probes:
        if isinstance(probe, CollapseWatch) and probe.at_the_end:
            warn(probe.at_the_end)


def _say(text: str, quiet: bool) -> None:
    if not quiet and is_main():
        # Names of files may be no UTF-8.
        print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)
