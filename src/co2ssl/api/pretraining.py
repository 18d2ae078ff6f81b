"""``pretrain``: from images to a trained backbone in a run folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from co2ssl.api import runs
from co2ssl.api.beginning import Say, images_in_words, new_run
from co2ssl.api.build import build_method, build_objective, build_schedule, build_views, evaluation_resize
from co2ssl.api.images import CACHE, Images, bad_images_before, cached_images, keep_listing, name_bad_images
from co2ssl.api.machine import build_device, check_precision
from co2ssl.api.reporting import write_run_report
from co2ssl.api.resuming import (
    checkpoint_folder,
    complete_in_words,
    images_of,
    is_complete,
    left_in_words,
    run_to_resume,
    with_options,
)
from co2ssl.api.runs import Run
from co2ssl.config import Recipe, RunOptions, workers_per_process
from co2ssl.data.loader import Loader
from co2ssl.data.sources import Source
from co2ssl.distributed import barrier, is_main, process_group
from co2ssl.encoders.batch_norm import average_running_statistics
from co2ssl.errors import UsageError
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
            folder, config, source = new_run(data, out, recipe, auto, options, say)
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
    # Bad images are named even where progress is quiet.
    with _ending(run, loader, log, say=warn if quiet else say):
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
    if quiet:
        # Otherwise progress has shown it.
        _warn_of_collapse(probes)
    _finish(run, method, say)


@contextmanager
def _ending(run: Run, loader: Loader, log: MetricsLog, *, say: Say) -> Iterator[None]:
    """Whatever ends the training within the block: loader and log are closed, and images that failed are named."""
    try:
        yield
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
                name_bad_images(run.folder, loader.bad_images, say)


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
