"""``pretrain``: from images to a trained backbone in a run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from co2ssl.api.images import CACHE, Images, cached_images, keep_listing, name_bad_images, open_images, spec_of
from co2ssl.api.machine import build_device, check_precision, describe_machine, sample_sizes
from co2ssl.api.reporting import write_run_report
from co2ssl.api.runs import Run
from co2ssl.config import (
    DEFAULT_RECIPE,
    DataRecord,
    Origin,
    Recipe,
    RunConfig,
    RunOptions,
    adapt,
    duration,
    load_recipe,
    resolve_options,
    usable_cores,
)
from co2ssl.data.loader import Loader
from co2ssl.data.sources import Source
from co2ssl.distributed import barrier, is_main, process_group
from co2ssl.encoders.batch_norm import average_running_statistics
from co2ssl.errors import UsageError
from co2ssl.evaluate.probe import Probe, knn_probe, spread_probe
from co2ssl.methods.method import Method
from co2ssl.train.checkpoint import CheckpointFolder, save_backbone, write_atomically
from co2ssl.train.log import MetricsLog
from co2ssl.train.loop import Rhythm, train
from co2ssl.train.optim import build_optimizer
from co2ssl.train.progress import Progress

Say = Callable[[str], None]

RESUMED_WITH = ("max_bad_share",)
"""Options that may be given beside ``resume``: what a run may have been stopped by."""


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
        resume: a run folder to continue from its last checkpoint; every setting is then read from it.
        quiet: no progress.
        say: where lines for a person go; None prints them to stderr, unless ``quiet``.
        **options: any field of ``Recipe`` or ``RunOptions`` (``epochs=100``, ``batch_size=256``, ``device="cuda"``).

    Returns:
        The finished run.

    Raises:
        UserError: whatever the person can mend, in one sentence; nothing finished is lost.
    """
    say = say or (lambda text: _say(text, quiet))
    with process_group():
        run, source = _resumed(resume, data, options) if resume else _new(data, out, recipe, auto, options, say)
        _train(run, source, resumed=bool(resume), quiet=quiet, say=say)
        return run


def _new(
    data: Images | None,
    out: str | Path | None,
    recipe: str | None,
    auto: bool | None,
    given: Mapping[str, Any],
    say: Say,
) -> tuple[Run, Source]:
    """A run folder with its configuration, and the images."""
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
    if auto:
        adapted = adapt(
            resolved,
            options,
            num_images=len(source),
            image_sizes=sample_sizes(source),
            machine=describe_machine(device),
            given_options=set(option_values),
        )
        resolved, options = adapted.resolved, adapted.options
        origins.update(adapted.option_origins)
        say(f"{resolved.name}, fitted to {len(source):,} images and this machine:")
        for change in adapted.changes:
            say(f"  {change}")
        if adapted.estimated_seconds is not None:
            say(f"  about {duration(adapted.estimated_seconds)} in all")
    check_size(resolved.recipe, source)
    check_precision(options, device)
    config = RunConfig(
        resolved=resolved,
        options=options,
        data=DataRecord(source=spec_of(data, source), num_images=len(source), fingerprint=source.fingerprint()),
        option_origins=origins,
    )
    folder = Path(out)
    if is_main():
        folder = runs.new_folder(out)
        (folder / runs.CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        keep_listing(source, folder)
    barrier()
    return Run(folder=folder, config=config), source


def _resumed(folder: str | Path, data: Images | None, given: Mapping[str, Any]) -> tuple[Run, Source]:
    """The run in a folder, and its images, which must be the same."""
    run = _with_options(runs.read_run(folder), given)
    source = open_images(
        run.config.data.source if data is None else data,
        download=run.config.options.download,
        listing_folder=run.folder,
    )
    if source.fingerprint() != run.config.data.fingerprint:
        raise UsageError(
            f"{source.name} no longer holds the images of this run ({run.config.data.num_images:,} then, "
            f"{len(source):,} now, or other names): a resumed run would not be the same run. "
            "Restore them, or start a new run with --out."
        )
    return run, source


def _with_options(run: Run, given: Mapping[str, Any]) -> Run:
    """The run with the few options that may be given anew beside ``resume``; its ``config.yaml`` then says so too."""
    path = run.folder / runs.CONFIG
    refused = [f"--{name.replace('_', '-')}" for name in given if name not in RESUMED_WITH]
    if refused:
        raise UsageError(
            f"--resume takes every setting from {path}; leave out {', '.join(refused)}, or start a new run with --out."
        )
    if not given:
        return run
    config = replace(
        run.config,
        options=resolve_options({**run.config.options.model_dump(), **given}),
        option_origins={**run.config.option_origins, **{name: Origin(kind="option") for name in given}},
    )
    if is_main():
        write_atomically(path, lambda file: file.write(config.to_yaml().encode("utf-8")))
    barrier()
    return replace(run, config=config)


def _train(run: Run, source: Source, *, resumed: bool, quiet: bool, say: Say) -> None:
    """Everything from the configuration to the finished folder."""
    recipe, options = run.config.resolved.recipe, run.config.options
    device = build_device(options)
    method = build_method(recipe, seed=options.seed)
    assert isinstance(method, nn.Module)
    checkpoints = CheckpointFolder(
        run.folder / runs.CHECKPOINTS, architecture=_architecture(recipe), config_hash=run.config.hash
    )
    saved = checkpoints.load() if resumed else None
    method.to(device)
    if options.compile:
        backbone = method.encoder.backbone
        assert isinstance(backbone, nn.Module)
        backbone.compile()
    loader = _loader(run, source, method, say)
    steps_per_epoch = max(1, loader.steps_per_epoch // recipe.accumulate)
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
            probes=_probes(loader.source, recipe, options, device),
            rhythm=Rhythm(
                log_every=options.log_every,
                checkpoint_every=options.checkpoint_every,
                probe_every=options.probe_every,
            ),
            checkpoints=checkpoints,
            saved=saved,
        )
    finally:
        loader.close()
        log.close()
        name_bad_images(run.folder, loader.bad_images, say)
    average_running_statistics(method.encoder)
    if is_main():
        save_backbone(run.folder / runs.BACKBONE, method.encoder.backbone)  # type: ignore[arg-type]
        write_run_report(run)
        say(f"the backbone: {run.folder / runs.BACKBONE}\nthe report:   {run.folder / runs.REPORT}")
    barrier()


def _loader(run: Run, source: Source, method: Method, say: Say) -> Loader:
    """Batches of the method's views of the images, which are decoded first where they are to be cached."""
    recipe, options = run.config.resolved.recipe, run.config.options
    workers = options.workers if options.workers is not None else usable_cores()
    if options.cache:
        source = cached_images(source, run.folder / CACHE, workers=workers, say=say)
    return Loader(
        source,
        build_views(recipe, method),
        batch_size=recipe.batch_size,
        seed=options.seed,
        workers=workers,
        max_bad_share=options.max_bad_share,
    )


def _probes(source: Source, recipe: Recipe, options: RunOptions, device: torch.device) -> Sequence[Probe]:
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
    probes: list[Probe] = [spread_probe(source, **size)]
    if source.labels is not None and source.classes is not None and len(source.classes) > 1:
        probes.append(knn_probe(source, **size))
    return probes


def _architecture(recipe: Recipe) -> str:
    head = recipe.head if recipe.head == "linear" else f"mlp of {recipe.head_layers} layers, {recipe.head_hidden} wide"
    queue = "" if recipe.queue_size is None else f", queue {recipe.queue_size}"
    return (
        f"{recipe.method}, {recipe.arch}, width {recipe.width:g}, stem {recipe.stem}, head {head}, "
        f"embedding {recipe.embedding_dim}{queue}"
    )


def _say(text: str, quiet: bool) -> None:
    if not quiet and is_main():
        print(text, file=sys.stderr, flush=True)
