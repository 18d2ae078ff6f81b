"""What a training step takes: alone, on a batch that is there already, and in the loop, fed by the workers."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from co2ssl.api.build import build_method, build_objective, build_views
from co2ssl.api.diagnosis.memory import PeakMemory
from co2ssl.api.diagnosis.pieces import synchronise
from co2ssl.api.diagnosis.result import Pace, Setting, Together
from co2ssl.data.batch import Batch
from co2ssl.data.loader import Loader
from co2ssl.data.sources import Source
from co2ssl.data.views import ViewRecipe
from co2ssl.data.workers import PREFETCHED_BATCHES
from co2ssl.train.log import MetricsLog
from co2ssl.train.loop import Rhythm, train
from co2ssl.train.optim import build_optimizer
from co2ssl.train.progress import Progress
from co2ssl.train.stop import Interrupted

ENDLESS = 2**31
"""Steps in the one epoch that the loop is given: it is the clock that ends it."""
SLOW = 3
"""Times the measuring time that a first step may take before it is the only one."""


@dataclass(frozen=True)
class Mark:
    """A batch that the loop asked for.

    Attributes:
        epoch: of the loader.
        asked: when, in seconds of the clock: the end of what was done with the batch before.
        given: when it came.
    """

    epoch: int
    asked: float
    given: float


class Trainee:
    """The method of a recipe, its optimiser and views: as ``pretrain`` makes them, only that it learns nothing.

    The learning rate is 0: the same arithmetic, and weights that cannot diverge.

    Args:
        setting: what is trained, and how.
        device: where.
        num_images: how many images there are, which some methods remember.
    """

    def __init__(self, setting: Setting, device: torch.device, *, num_images: int) -> None:
        recipe = setting.recipe
        self.recipe = recipe
        self.options = setting.options
        self.workers = setting.workers
        self.device = device
        self.num_images = num_images
        self.method = build_method(recipe, seed=setting.options.seed)
        assert isinstance(self.method, nn.Module)
        self.method.to(device)
        if setting.options.compile:
            backbone = self.method.encoder.backbone
            assert isinstance(backbone, nn.Module)
            backbone.compile()
        self.views: ViewRecipe = build_views(recipe, self.method)
        self._optimizer = build_optimizer(
            recipe.optimizer,
            self.method,
            lr=recipe.lr,
            momentum=recipe.optimizer_momentum,
            weight_decay=recipe.weight_decay,
        )

    def alone(self, batches: Sequence[Batch], *, seconds: float) -> Pace:
        """Training steps on batches that are there already, over and over, without the time to copy them."""
        if self.device.type != "cpu":
            batches = [replace(one, views=tuple(view.to(self.device) for view in one.views)) for one in batches]
        clock = Clock(self, zip(itertools.repeat(0), itertools.cycle(batches)), seconds=seconds, warm_up=1)
        self._train(clock)
        images = (len(clock.marks) - 1) * self.recipe.batch_size
        return Pace(images=images, seconds=clock.marks[-1].asked - clock.marks[0].asked)

    def together(self, source: Source, *, seconds: float, refill: float) -> Together:
        """The loop on images of the source, with its workers.

        Args:
            source: where the images are read from.
            seconds: how long to measure, after the stock of batches that workers make ahead is full.
            refill: seconds from the beginning of an epoch to its first batch, which are added where no epoch ends
                within the measurement.
        """
        loader = Loader(
            source,
            self.views,
            batch_size=self.recipe.batch_size,
            seed=self.options.seed,
            workers=self.workers,
            max_bad_share=1.0,
            views_on=self.options.views_on,
        )
        batches = ((epoch, batch) for epoch in itertools.count() for batch in loader.epoch(epoch))
        stock = self.workers * PREFETCHED_BATCHES
        clock = Clock(self, batches, seconds=seconds, warm_up=1 + stock // self.recipe.accumulate)
        try:
            with PeakMemory(self.device) as memory:
                self._train(clock)
        finally:
            loader.close()
        marks = clock.marks
        waited = sum(mark.given - mark.asked for mark in marks[:-1])
        return Together(
            epoch_seconds=epoch_seconds(marks, batches=len(source) // self.recipe.batch_size, refill=refill),
            wait_share=waited / max(marks[-1].asked - marks[0].asked, 1e-9),
            host_bytes=memory.host_bytes,
            device_bytes=memory.device_bytes,
        )

    def _train(self, clock: Clock) -> None:
        objective = build_objective(
            self.recipe.model_copy(update={"consistency_ramp_epochs": 0}), steps_per_epoch=ENDLESS
        )
        with tempfile.TemporaryDirectory(prefix="co2ssl-doctor-") as folder:
            log = MetricsLog(Path(folder) / "metrics.jsonl")
            try:
                train(
                    self.method,
                    objective,
                    clock,
                    optimizer=self._optimizer,
                    learning_rate=lambda _: 0.0,
                    epochs=1,
                    device=self.device,
                    log=log,
                    progress=Progress(epochs=1, steps_per_epoch=ENDLESS, quiet=True),
                    precision=self.options.precision,
                    accumulate=self.recipe.accumulate,
                    rhythm=Rhythm(log_every=self.options.log_every),
                )
            except Interrupted:
                # There is no run to go on with, of which its message speaks.
                raise KeyboardInterrupt from None
            finally:
                log.close()


class Clock:
    """Hands batches to the loop, notes when it asks for them, and ends the epoch when the time is up.

    Args:
        trainee: whose batches they are.
        batches: with the loader's epoch of each; without end.
        seconds: how long to measure.
        warm_up: steps before the clock starts; fewer where they take more than ``SLOW`` times as long as is measured,
            and none where the first alone does: then that one is what is measured.

    Attributes:
        marks: one for each batch of the steps that were timed, and one for their end.
    """

    steps_per_epoch = ENDLESS

    def __init__(self, trainee: Trainee, batches: Iterator[tuple[int, Batch]], *, seconds: float, warm_up: int) -> None:
        self.source = range(trainee.num_images)
        self.marks: list[Mark] = []
        self._batches = batches
        self._accumulate = trainee.recipe.accumulate
        self._compiles = trainee.options.compile
        self._device = trainee.device
        self._seconds = seconds
        self._warm_up = warm_up

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """Batches until the time is up: only whole steps, at least one that is timed."""
        del epoch, first_step
        # The workers' start is no part of a step.
        self._batches = itertools.chain([next(self._batches)], self._batches)
        began = self._now()
        yield from self._step()
        if self._compiles or self._now() - began < SLOW * self._seconds:
            for _ in range(1, self._warm_up):
                if time.perf_counter() - began > SLOW * self._seconds:
                    break
                yield from self._step()
            began = self._now()
            self.marks.clear()
            while not self.marks or time.perf_counter() - began < self._seconds:
                yield from self._step()
        end = self._now()
        self.marks.append(Mark(self.marks[-1].epoch, end, end))

    def _step(self) -> Iterator[Batch]:
        """The batches of one step; it is over when the loop asks for what comes after them."""
        for _ in range(self._accumulate):
            asked = time.perf_counter()
            epoch, batch = next(self._batches)
            self.marks.append(Mark(epoch, asked, time.perf_counter()))
            yield batch

    def _now(self) -> float:
        synchronise(self._device)
        return time.perf_counter()


def epoch_seconds(marks: Sequence[Mark], *, batches: int, refill: float) -> float:
    """How long an epoch takes: as measured where whole ones were, else by the mean of a batch.

    Args:
        marks: of the batches in their order, and of the end.
        batches: in an epoch.
        refill: seconds that an epoch takes to begin, which the mean of a batch holds where an epoch began among them.
    """
    starts = [now.asked for before, now in itertools.pairwise(marks) if now.epoch != before.epoch]
    if len(starts) > 1:
        return statistics.median(later - now for now, later in itertools.pairwise(starts))
    return batches * (marks[-1].asked - marks[0].asked) / (len(marks) - 1) + (0.0 if starts else refill)
