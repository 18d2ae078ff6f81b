"""Several trainings on labels, one after the other, each measured at its end; what was broken off goes on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from co2ssl.data.loader import MAX_BAD_SHARE, Loader
from co2ssl.data.sources import Source
from co2ssl.distributed import world_size
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import collect, labels_of, matched_labels, require_readable, shared_feature_batches
from co2ssl.evaluate.label_subsets import LabelSubset
from co2ssl.evaluate.label_training import LabelTraining, TrainingSettings, with_head
from co2ssl.evaluate.metrics import accuracies
from co2ssl.evaluate.progress import Progress
from co2ssl.evaluate.resumable import Saved
from co2ssl.train.progress import warn
from co2ssl.train.stop import Interrupted, any_process, stop_on_signals

BATCH_SIZE = 256
"""Of pytorch/examples, and of OpenSelfSup's fine-tuning (4 GPUs of 64)."""
SAVE_EVERY = 300.0
"""Seconds between two savings of where a training stands: weights and momentum of the whole network."""
_LOOK_EVERY = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """One of the trainings whose mean is reported.

    Attributes:
        seed: of the head's first weights, of order and crops, and of whatever the network draws.
        source: the labelled images.
        backbone: makes the network (N, 3, H, W) to (N, F) that is trained: an object that nobody else has.
    """

    seed: int
    source: Source
    backbone: Callable[[], nn.Module]


def train_draws(
    draws: Sequence[Draw],
    val: Source,
    settings: TrainingSettings,
    *,
    title: str,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    saved: Saved | None = None,
    keep: Callable[[int, nn.Module], None] | None = None,
    quiet: bool = True,
) -> list[dict[str, object]]:
    """Train each draw to its last epoch and measure it on ``val``.

    Over several processes each has its share of every batch, and all take the same steps.

    Args:
        draws: the trainings.
        val: labelled images to measure on; classes are matched by name.
        settings: how to train.
        title: what progress is headed with.
        device: where to compute.
        workers: processes that make crops.
        max_bad_share: share of each draw's labelled images, and of ``val``, that may be unreadable.
        saved: where it stands on the disk: the draws that are finished, and the one in progress; None: nowhere.
        keep: is given number and backbone of each draw that is finished, trained.
        quiet: no progress.

    Returns:
        Of each draw ``seed``, ``top1``, ``top5`` (shares from 0 to 1), ``train_loss`` (mean over the last epoch),
        ``num_train`` and ``seconds``.

    Raises:
        EvaluationError: labels that cannot be used (see :func:`matched_labels`), or a loss that is not finite.
        Interrupted: Ctrl-C or SIGTERM.
        DataError, UsageError: images that cannot be used, fewer than a batch, a batch that processes cannot share.
    """
    for draw in draws:
        _check(draw, val, settings)
    device = torch.device(device)
    standing = _Standing.of(saved)
    steps = [settings.epochs * (len(draw.source) // settings.batch_size) for draw in draws]
    progress = Progress(title, total=sum(steps) * settings.batch_size, quiet=quiet)
    with progress, stop_on_signals() as stop_requested, torch.random.fork_rng(_generators(device)):
        for number, draw in enumerate(draws):
            if number < len(standing.finished):
                continue
            network = with_head(draw.backbone(), _num_classes(draw.source), settings, seed=draw.seed).to(device)
            progress.begin((sum(steps[:number]) + standing.steps_begun) * settings.batch_size)
            words = f"draw {number + 1}/{len(draws)}, " if len(draws) > 1 else ""
            reading = {"workers": workers, "max_bad_share": max_bad_share}
            training = _train(
                network, draw, settings, reading, standing, stop_requested, progress=progress, words=words
            )
            measured = _measure(network, draw.source, val, settings, reading, device=device)
            if keep is not None:
                keep(number, network[0])
            standing.finish(
                {
                    "seed": draw.seed,
                    **measured,
                    "train_loss": training.mean_loss(),
                    "num_train": len(draw.source),
                    "seconds": training.seconds,
                }
            )
    if saved is not None:
        saved.remove()
    return standing.finished


def batch_that_fits(num_images: int) -> int:
    """The published batch, or one of all the labelled images where they are fewer, which is said."""
    note = small_batch_note(num_images)
    if note is not None:
        warn(note)
    return fitting(num_images)


def small_batch_note(num_images: int, asked: int | None = None) -> str | None:
    """What there is to say of :func:`batch_that_fits`; None where it is the published batch, or one was asked for."""
    if asked is not None or num_images >= BATCH_SIZE:
        return None
    return (
        f"{num_images} labelled images are fewer than the published batch of {BATCH_SIZE}: each epoch is one step on "
        f"{fitting(num_images)} of them, at learning rates for {BATCH_SIZE}; a --batch-size with rates of its own may "
        "suit better"
    )


def fitting(num_images: int) -> int:
    """The published batch; of fewer images, as many of them as divide among the processes."""
    return BATCH_SIZE if num_images >= BATCH_SIZE else max(num_images - num_images % world_size(), 1)


def over_draws(rows: Sequence[Mapping[str, object]], subsets: Sequence[LabelSubset | None]) -> dict[str, object]:
    """What a result says of its draws.

    Returns:
        ``top1`` and ``top5``: means over the draws; ``top1_std``, ``top5_std``: sample deviations, None of one draw;
        ``draws``: each one's own, with the ``subset`` it had; ``seconds`` of training, over all restarts.
    """
    found: dict[str, object] = {}
    for name in ("top1", "top5"):
        values = [float(str(row[name])) for row in rows]
        found[name] = statistics.fmean(values)
        found[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    found["draws"] = [
        {
            **{name: value for name, value in row.items() if name != "seconds"},
            **({} if subset is None else subset.described()),
        }
        for row, subset in zip(rows, subsets, strict=True)
    ]
    return {**found, "seconds": sum(float(str(row["seconds"])) for row in rows)}


@dataclass
class _Standing:
    """Which draws are finished, and how far the one in progress is."""

    saved: Saved | None
    finished: list[dict[str, object]] = field(default_factory=list)
    begun: Mapping[str, Any] | None = None
    last_saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, saved: Saved | None) -> _Standing:
        """As it was saved last, or at the beginning."""
        state = None if saved is None else saved.load()
        return cls(saved) if state is None else cls(saved, state["finished"], state["training"])

    @property
    def steps_begun(self) -> int:
        """Steps that the draw in progress has taken already."""
        return 0 if self.begun is None else int(self.begun["step"])

    def finish(self, row: dict[str, object]) -> None:
        """One more draw is measured."""
        self.finished.append(row)
        self.begun = None
        self.write(None)

    def write(self, training: Mapping[str, Any] | None) -> None:
        """Save it, where there is a place."""
        if self.saved is not None:
            self.saved.save({"finished": self.finished, "training": training})
        self.last_saved = time.monotonic()

    def write_when_due(self, training: LabelTraining, stop_requested: Callable[[], bool]) -> None:
        """Save after a while, and stop where that was asked for; every process calls it. Raises Interrupted."""
        stop, due = any_process(stop_requested(), time.monotonic() - self.last_saved > SAVE_EVERY)
        if stop or due:
            self.write(training.state())
        if stop:
            kept = "nothing was saved" if self.saved is None else "all of it saved: the same command goes on from there"
            number = len(self.finished) + 1
            raise Interrupted(f"stopped after step {training.step} of {training.total_steps} of draw {number}; {kept}")


def _train(
    network: nn.Sequential,
    draw: Draw,
    settings: TrainingSettings,
    reading: Mapping[str, Any],
    standing: _Standing,
    stop_requested: Callable[[], bool],
    *,
    progress: Progress,
    words: str,
) -> LabelTraining:
    """Train ``network`` in place, from the beginning or from where the draw in progress stands."""
    loader = Loader(draw.source, settings.crops, batch_size=settings.batch_size, seed=draw.seed, **reading)
    training = LabelTraining(
        network, settings, steps_per_epoch=loader.steps_per_epoch, seed=draw.seed, state=standing.begun
    )
    shown = ""
    try:
        while training.step < training.total_steps:
            epoch, first_step = divmod(training.step, loader.steps_per_epoch)
            for batch in loader.epoch(epoch, first_step=first_step):
                training.take(batch)
                if training.step % _LOOK_EVERY == 1 or training.step == training.total_steps:
                    shown = f"{words}epoch {epoch + 1}/{settings.epochs}, loss {training.mean_loss():.3f}"
                progress.advance(settings.batch_size, shown)
                standing.write_when_due(training, stop_requested)
    finally:
        loader.close()
    return training


def _measure(
    network: nn.Module,
    train: Source,
    val: Source,
    settings: TrainingSettings,
    reading: Mapping[str, Any],
    *,
    device: torch.device,
) -> dict[str, float]:
    """Accuracies on centre crops."""
    batches = shared_feature_batches(
        network,
        val,
        device=device,
        image_size=settings.image_size,
        resize=settings.resize,
        precision=settings.precision,
        **reading,
    )
    scores = collect(batches, val)
    require_readable(len(scores), val, reading["max_bad_share"])
    _, labels, _ = matched_labels(labels_of(train), scores)
    return accuracies(scores.features, labels)


def _check(draw: Draw, val: Source, settings: TrainingSettings) -> None:
    matched_labels(labels_of(draw.source), labels_of(val))
    if len(draw.source) < settings.batch_size:
        raise UsageError(
            f"{len(draw.source):,} labelled images are fewer than one batch of {settings.batch_size}: "
            f"give a --batch-size of at most {len(draw.source)}, and learning rates that go with it"
        )
    if settings.batch_size // world_size() < 2:
        raise UsageError("batch norm in training mode needs two images in a batch on every process")


def _num_classes(source: Source) -> int:
    assert source.classes is not None, "matched_labels() refuses a source without labels"
    return len(source.classes)


def _generators(device: torch.device) -> list[torch.device]:
    """The devices whose random numbers the training sets, beside the CPU's."""
    return [device] if device.type == "cuda" else []
