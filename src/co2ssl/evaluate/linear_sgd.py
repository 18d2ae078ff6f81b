"""The linear protocol as the papers run it: SGD on random crops, through a frozen backbone.

Source: facebookresearch/moco, main_lincls.py (seen): learning rate 30, momentum 0.9, no weight decay, batch 256, 100
epochs with a tenth of the rate after 60 and 80, random-resized crop (area 0.08 to 1) and flip, the backbone in
evaluation mode, weights from N(0, 0.01) and bias 0, resize 256 and centre crop 224 at the test. CO2: the same with
learning rate 15 (as recalled from the paper, unverified; its batch size is not known). Two departures: the last epoch
is reported where MoCo's script keeps the best, which is chosen on the test images; and what an epoch leaves over after
its last whole batch is dropped, other images in other epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from co2ssl.data.loader import MAX_BAD_SHARE, Loader
from co2ssl.data.operations import RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.sources import Source
from co2ssl.data.views import ViewRecipe
from co2ssl.distributed import gather
from co2ssl.errors import UsageError
from co2ssl.evaluate.classifiers import Classifiers, Training
from co2ssl.evaluate.features import Features, Precision, frozen_forward, labels_of, matched_labels
from co2ssl.evaluate.frozen import evaluating, unchanged
from co2ssl.evaluate.layers import POOLED
from co2ssl.evaluate.metrics import accuracies
from co2ssl.evaluate.progress import Progress
from co2ssl.evaluate.resumable import Saved
from co2ssl.train.progress import warn
from co2ssl.train.stop import stop_on_signals

ORIGINS = {
    30.0: "MoCo (main_lincls.py)",
    15.0: "CO2 (as recalled from the paper, unverified)",
    0.01: "VISSL (linear classifiers of maps)",
}
"""Where learning rates come from. Each is for a batch of 256."""

LEARNING_RATES = (30.0, 15.0)
MAP_LEARNING_RATES = (0.01,)
"""Of features that a batch norm has brought to unit variance, as VISSL trains on maps: 30 is for MoCo's own scale."""

EPOCHS = 100
BATCH_SIZE = 256
MOMENTUM = 0.9
DROP_FACTOR = 0.1
INITIAL_DEVIATION = 0.01
MIN_AREA = 0.08


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """How the classifiers are trained.

    Attributes:
        image_size: side of a crop, in training and at the test, in pixels.
        layer: which features; those of maps get a batch norm without weights in front of the classifier.
        lrs: learning rates, each of a classifier of its own on the same features; None: 30 and 15, of maps 0.01.
        epochs: passes over the training images.
        batch_size: over all processes.
        seed: of order, crops and first weights.
        precision: of the backbone; classifiers are in float32.
    """

    image_size: int
    layer: str = POOLED
    lrs: tuple[float, ...] | None = None
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    seed: int = 0
    precision: Precision = "float32"

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One for each classifier."""
        return self.lrs or (LEARNING_RATES if self.layer == POOLED else MAP_LEARNING_RATES)

    @property
    def drop_epochs(self) -> tuple[int, int]:
        """60 and 80 of 100 epochs, and in that proportion for any other number."""
        return round(0.6 * self.epochs), round(0.8 * self.epochs)


def linear_sgd(
    network: nn.Module,
    train: Source,
    val: Features,
    settings: LinearSettings,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    saved: Saved | None = None,
    quiet: bool = True,
) -> dict[str, object]:
    """Accuracy on ``val`` of linear classifiers trained by SGD on random crops of ``train``, at the last epoch.

    Over several processes each has its share of every batch; all take the same steps, on the features of all.

    Args:
        network: the frozen backbone, up to ``settings.layer``, on ``device``.
        train: labelled images; its classes are the classes.
        val: features of centre crops by the same network; classes are matched by name.
        settings: how to train.
        device: where to compute.
        workers: processes that make crops.
        max_bad_share: share of ``train`` that may be unreadable.
        saved: where the training stands on the disk, so that it goes on after an interruption; None: nowhere.
        quiet: no progress.

    Returns:
        A plain dict: ``protocol``, ``top1`` and ``top5`` (shares from 0 to 1, of the first learning rate),
        ``classifiers`` (of each learning rate: ``lr``, ``origin``, ``top1``, ``top5``, ``train_loss`` in the last
        epoch, ``warning`` or None), settings, counts, names of the sources, ``seconds``.

    Raises:
        EvaluationError: labels that cannot be used (see :func:`matched_labels`), or a loss that became NaN.
        Interrupted: Ctrl-C or SIGTERM.
        DataError, UsageError: images that cannot be used, fewer than a batch, a batch that processes cannot share.
    """
    _, val_labels, classes = matched_labels(labels_of(train), val)
    if len(train) < settings.batch_size:
        raise UsageError(
            f"{train.name} has {len(train):,} images, fewer than one batch of {settings.batch_size}: "
            f"give a --batch-size of at most {len(train)}, or --fast"
        )
    classifiers = new_classifiers(settings, val.features.shape[1], len(classes))
    training = train_classifiers(
        classifiers,
        network,
        train,
        settings,
        device=torch.device(device),
        workers=workers,
        max_bad_share=max_bad_share,
        saved=saved,
        quiet=quiet,
    )
    measured = [accuracies(scores, val_labels) for scores in classifiers.scores(val.features)]
    if saved is not None:
        saved.remove()
    losses = training.mean_losses()
    doubts = _doubts(settings.learning_rates, losses, len(classes))
    rows = [
        {"lr": lr, "origin": ORIGINS.get(lr, "given"), **own, "train_loss": loss, "warning": doubt}
        for lr, own, loss, doubt in zip(settings.learning_rates, measured, losses, doubts, strict=True)
    ]
    for row in rows:
        if row["warning"]:
            warn(str(row["warning"]))
    return {
        "protocol": "linear",
        **measured[0],
        "classifiers": rows,
        "layer": settings.layer,
        "epochs": settings.epochs,
        "drop_epochs": list(settings.drop_epochs),
        "batch_size": settings.batch_size,
        "momentum": MOMENTUM,
        "weight_decay": 0.0,
        "seed": settings.seed,
        "num_train": len(train),
        "num_val": len(val),
        "num_classes": len(classes),
        "num_features": val.features.shape[1],
        "train": train.name,
        "val": val.source,
        "seconds": training.seconds,
    }


def new_classifiers(settings: LinearSettings, num_features: int, num_classes: int) -> Classifiers:
    """The classifiers before their training, one for each learning rate."""
    return Classifiers(
        num_features,
        num_classes,
        count=len(settings.learning_rates),
        norm=settings.layer != POOLED,
        deviation=INITIAL_DEVIATION,
        seed=settings.seed,
    )


def train_classifiers(
    classifiers: Classifiers,
    network: nn.Module,
    train: Source,
    settings: LinearSettings,
    *,
    device: torch.device,
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    saved: Saved | None = None,
    quiet: bool = True,
) -> Training:
    """Train ``classifiers``, one for each of the settings' learning rates, and leave them trained on ``device``.

    Every batch goes through the frozen network once, whatever the number of classifiers.

    Returns:
        Where the training stands at the end.

    Raises:
        As for :func:`linear_sgd`.
    """
    loader = Loader(
        train,
        crops(settings.image_size),
        batch_size=settings.batch_size,
        seed=settings.seed,
        workers=workers,
        max_bad_share=max_bad_share,
    )
    training = Training(
        classifiers.to(device),
        learning_rates=settings.learning_rates,
        momentum=MOMENTUM,
        epochs=settings.epochs,
        steps_per_epoch=loader.steps_per_epoch,
        drop_epochs=settings.drop_epochs,
        drop_factor=DROP_FACTOR,
        saved=saved,
    )
    progress = Progress("linear", total=training.total_steps * settings.batch_size, quiet=quiet)
    try:
        with unchanged(network), evaluating(network), progress, stop_on_signals() as stop_requested:
            progress.begin(training.step * settings.batch_size)
            while training.step < training.total_steps:
                epoch, first_step = divmod(training.step, loader.steps_per_epoch)
                for batch in loader.epoch(epoch, first_step=first_step):
                    features = frozen_forward(network, batch.views[0], device=device, precision=settings.precision)
                    assert batch.label is not None, "matched_labels() refuses a source without labels"
                    training.take(gather(features), gather(batch.label.to(device)))
                    progress.advance(settings.batch_size, training.in_words())
                    training.save_when_due(stop_requested)
    finally:
        loader.close()
    training.check()
    return training


def crops(image_size: int) -> ViewRecipe:
    """The training view of the protocol: random-resized crop and flip, seen in main_lincls.py."""
    operations = (RandomResizedCrop(size=image_size, min_area=MIN_AREA), RandomHorizontalFlip())
    return ViewRecipe(name="linear", image_size=image_size, operations=operations, num_views=1)


def _doubts(lrs: Sequence[float], losses: Sequence[float], num_classes: int) -> list[str | None]:
    """What to say of each classifier that ended worse than one that knows nothing; None of any other."""
    guessing = math.log(num_classes)
    # Features that say nothing end a little above it, and that is no fault of the rate.
    most = 1.1 * guessing
    converged = [lr for lr, loss in zip(lrs, losses, strict=True) if loss <= most]
    lowest = min(lrs)
    # Where a rate tried has done it there is nothing to try, and what is larger than one that failed is no advice.
    advice = (
        f"The one with {max(converged):g} did"
        if converged
        else f"Give smaller ones, such as --lr {lowest / 10:g} {lowest / 100:g}"
    )
    return [
        None
        if loss <= most
        else f"the classifier with learning rate {lr:g} ended with a loss of {loss:.3g} on its training crops, and "
        f"guessing gives {guessing:.3g}: the features are larger than that rate is for, and it did not converge. "
        f"{advice}"
        for lr, loss in zip(lrs, losses, strict=True)
    ]
