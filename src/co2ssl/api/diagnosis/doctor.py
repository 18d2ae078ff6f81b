"""``doctor``: from images and a recipe to a diagnosis; nothing is trained, and nothing is left on the disk."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from co2ssl.api.diagnosis import judgement, pieces
from co2ssl.api.diagnosis.result import Diagnosis, Measured, Pace, Setting
from co2ssl.api.diagnosis.setting import fit
from co2ssl.api.diagnosis.steps import Trainee
from co2ssl.api.diagnosis.words import span
from co2ssl.api.images import Images, open_images
from co2ssl.api.machine import build_device
from co2ssl.config import RunOptions, resolve_options
from co2ssl.data import hashing
from co2ssl.data.cache import cached
from co2ssl.data.inspection import Inspection, file_of, inspect_images
from co2ssl.data.sources import Source, Subset
from co2ssl.data.views import view_recipe
from co2ssl.errors import UsageError

Say = Callable[[str], None]

SAMPLE = 2000
"""Most images that are looked at where nobody says how many."""
LOOK_SECONDS = 30.0
"""Seconds after which no more are looked at then."""
CACHED_IMAGES = 512
"""Images that are decoded into a cache to measure with ``cache``."""


def doctor(
    data: Images,
    *,
    recipe: str | None = None,
    auto: bool | None = None,
    sample: int | None = None,
    seconds: float = 2.0,
    say: Say | None = None,
    **options: Any,
) -> Diagnosis:
    """Look at the images, measure what a run on them would do here, and say what holds it up.

    Args:
        data: as for ``pretrain``.
        recipe: a name from ``co2ssl methods``, with or without "+co2", or the path of a YAML file.
        auto: fit the recipe to the images and this machine, as ``pretrain`` does. None: only where no recipe is named.
        sample: how many images to look at, drawn by ``seed``, where there are more. None: up to 2,000, as many as take
            half a minute.
        seconds: how long to measure each part; the whole loop twice as long. Where one step takes longer, one is timed.
        say: is told what is being done; None tells nobody.
        **options: any field of ``Recipe`` or ``RunOptions``, as for ``pretrain``.

    Returns:
        What was found. Where ``pretrain`` would refuse the images, without the training step and the prediction.

    Raises:
        UsageError: an option that makes no sense.
        UserError: no images there.
    """
    if (sample is not None and sample < 1) or not seconds > 0:
        raise UsageError(f"--sample {sample}, --seconds {seconds:g}: give at least 1 image, and more than 0 seconds")
    say = say or _unheard
    given = {name: value for name, value in options.items() if name in RunOptions.model_fields}
    run_options = resolve_options(given)
    device = build_device(run_options)
    say("listing the images")
    source = open_images(data, download=run_options.download)
    setting = fit(
        recipe,
        {name: value for name, value in options.items() if name not in given},
        run_options,
        source,
        device,
        auto=recipe is None if auto is None else auto,
        given_options=frozenset(given),
    )
    found = _look(source, sample, setting, say)
    measured, refused = Measured(), judgement.problem(found, setting)
    filling: tuple[str, ...] = ()
    if found.sizes is not None:
        disk = _disk(source, setting, seconds, say)
        with _as_it_is_read(source, found, setting, say) as (read, places, filling):
            measured, too_large = _measure(read, places, disk, setting, device, seconds, say)
            refused = refused or too_large
    binds = judgement.binding(measured, found, setting)
    return Diagnosis(
        data=source.name,
        setting=setting,
        inspection=found,
        measured=measured,
        milliseconds=judgement.milliseconds(measured, setting),
        binding=binds,
        prediction=judgement.predict(measured, found, setting),
        problem=refused,
        findings=(*judgement.findings(found, measured, setting), *filling),
        advice=judgement.advice(binds, found, measured, setting),
    )


def _look(source: Source, sample: int | None, setting: Setting, say: Say) -> Inspection:
    most = min(len(source), SAMPLE if sample is None else sample)
    return inspect_images(
        source,
        sample=most,
        seconds=LOOK_SECONDS if sample is None else float("inf"),
        seed=setting.options.seed,
        workers=setting.workers,
        seen=lambda count: say(f"looking at the images: {count:,} of {most:,}"),
    )


def _disk(source: Source, setting: Setting, seconds: float, say: Say) -> Pace | None:
    """The pace of the disk; None where images are no files of their own, or a cache will be read instead."""
    if setting.options.cache or file_of(source, 0) is None:
        return None
    say("measuring the disk")
    # From the end, since what was looked at is the beginning.
    order = hashing.permutation(setting.options.seed, epoch=0, length=len(source))[::-1]
    every = itertools.chain.from_iterable(itertools.repeat(order))
    paths = (path for index in every if (path := file_of(source, int(index))) is not None)
    return pieces.reading(paths, readers=setting.hands, seconds=seconds)


@contextmanager
def _as_it_is_read(
    source: Source, found: Inspection, setting: Setting, say: Say
) -> Iterator[tuple[Source, NDArray[np.int64], tuple[str, ...]]]:
    """The images as a run reads them: with ``cache`` from decoded ones, a few of them over and over.

    Yields:
        as many images as the source has; places of some that can be read; and what filling the cache takes.
    """
    if not setting.options.cache:
        yield source, found.good, ()
        return
    part = Subset(source, found.good[:: max(1, len(found.good) // CACHED_IMAGES)])
    with tempfile.TemporaryDirectory(prefix="co2ssl-doctor-") as folder:
        say(f"decoding {len(part):,} images into a cache")
        began = time.perf_counter()
        kept = cached(part, Path(folder), workers=setting.workers, say=_unheard)
        taken = (time.perf_counter() - began) * len(source) / len(part)
        filling = f"--cache: before the first epoch, all images are decoded once, which takes about {span(taken)}"
        yield Subset(kept, np.arange(len(source)) % len(part)), np.arange(len(part)), (filling,)


def _measure(
    source: Source,
    places: NDArray[np.int64],
    disk: Pace | None,
    setting: Setting,
    device: torch.device,
    seconds: float,
    say: Say,
) -> tuple[Measured, str | None]:
    """Every part by itself, and then all of them together; and why that cannot be, where it cannot."""
    recipe, seed, views_on = setting.recipe, setting.options.seed, setting.options.views_on
    views = view_recipe(recipe.views, image_size=recipe.image_size, min_area=recipe.min_area)
    say("measuring decode and views")
    with pieces.as_in_a_worker(setting.workers):
        decoders, images = pieces.kept_images(source, places)
        decode = pieces.decoding(decoders, seconds=seconds)
        augment = pieces.augmenting(images, views, seconds=seconds, seed=seed, views_on=views_on)
    measured = Measured(disk=disk, decode=decode, augment=augment)
    if setting.refused is not None:
        return measured, None
    try:
        say(f"measuring a training step on the {device.type}")
        trainee = Trainee(setting, device, num_images=len(source))
        endless = pieces.batches_of(images, trainee.views, batch_size=recipe.batch_size, seed=seed, views_on=views_on)
        batches = list(itertools.islice(endless, 2))
        if device.type != "cpu":
            measured = replace(measured, copy=pieces.copying(batches, device, seconds=seconds))
        measured = replace(measured, step=trainee.alone(batches, seconds=seconds))
        # What the measurements so far held is not part of what a run needs.
        del decoders, images, batches
        say("measuring the whole loop")
        # Without workers every batch is made when it is asked for, not only the first of an epoch.
        refill = recipe.batch_size * (1 / decode.rate + 1 / augment.rate) if setting.workers else 0.0
        return replace(measured, together=trainee.together(source, seconds=2 * seconds, refill=refill)), None
    except torch.OutOfMemoryError:
        return measured, (
            f"a step of {recipe.batch_size} images does not fit into the memory of the device: give a smaller "
            "--batch-size or --image-size"
        )


def _unheard(text: str) -> None:
    del text
