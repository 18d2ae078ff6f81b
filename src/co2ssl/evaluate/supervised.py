"""The supervised baseline: a network trained from nothing on labels, all of them or those of few images.

ImageNet classification as pytorch/examples has it (imagenet/main.py, seen), which torchvision's ResNets and the rows
"supervised" of Tables 1 and 3 come from: 90 epochs, batch 256, learning rate 0.1 and a tenth of it after 30 and 60,
momentum 0.9, weight decay 1e-4, random-resized crop and flip. Two departures: the last epoch is reported where the
script keeps the best; and the classifier begins from N(0, 0.01), as in every protocol here.

With few labels it is a plain baseline. The row of Table 2 (top-5 48.4 with 1 %, 80.4 with 10 %) is one of Zhai et al.
that was heavily tuned (SimCLR's paper, seen); its settings are not part of this protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from co2ssl.data.loader import MAX_BAD_SHARE
from co2ssl.data.sources import Source, Subset
from co2ssl.evaluate.features import Precision, labels_of, matched_labels
from co2ssl.evaluate.label_draws import BATCH_SIZE, Draw, over_draws, train_draws
from co2ssl.evaluate.label_subsets import LabelSubset
from co2ssl.evaluate.label_training import TrainingSettings
from co2ssl.evaluate.resumable import Saved

EPOCHS = 90
LEARNING_RATE = 0.1
WEIGHT_DECAY = 1e-4
DROP_SHARES = (1 / 3, 2 / 3)
"""30 and 60 of 90 epochs."""
DROP_FACTOR = 0.1


def supervised_settings(
    image_size: int,
    *,
    resize: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    lr: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    precision: Precision = "float32",
) -> TrainingSettings:
    """The published settings, at an image size in pixels, with changes."""
    return TrainingSettings(
        image_size=image_size,
        resize=resize,
        epochs=epochs,
        batch_size=batch_size,
        backbone_lr=lr,
        head_lr=lr,
        weight_decay=weight_decay,
        drop_shares=DROP_SHARES,
        drop_factor=DROP_FACTOR,
        precision=precision,
    )


def supervised(
    fresh: Callable[[int], nn.Module],
    train: Source,
    val: Source,
    subsets: Sequence[LabelSubset | None],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    saved: Saved | None = None,
    keep: Callable[[int, nn.Module], None] | None = None,
    quiet: bool = True,
) -> dict[str, object]:
    """Accuracy on ``val`` of a network that has seen nothing but the labelled images of each subset; and its spread.

    Args:
        fresh: makes a backbone (N, 3, H, W) to (N, F) with first weights by a seed; it is trained in place.
        train: labelled images; its classes are the classes.
        val: labelled images to measure on; classes are matched by name.
        subsets: which images have labels, in each training; None: all of them.
        settings: how to train, as from :func:`supervised_settings`.
        seed: of the first training's weights, order and crops; the next one has the next seed.
        device: where to compute.
        workers: processes that make crops.
        max_bad_share: share of the labelled images, and of ``val``, that may be unreadable.
        saved: where the training stands on the disk, so that it goes on after an interruption; None: nowhere.
        keep: is given number and backbone of each training that is finished.
        quiet: no progress.

    Returns:
        As for :func:`co2ssl.evaluate.finetune.finetune`.

    Raises:
        As there.
    """
    _, _, classes = matched_labels(labels_of(train), labels_of(val))
    draws = [
        Draw(
            seed=seed + number,
            source=train if subset is None else Subset(train, subset.places),
            backbone=partial(fresh, seed + number),
        )
        for number, subset in enumerate(subsets)
    ]
    rows = train_draws(
        draws,
        val,
        settings,
        title="supervised",
        device=device,
        workers=workers,
        max_bad_share=max_bad_share,
        saved=saved,
        keep=keep,
        quiet=quiet,
    )
    return {
        "protocol": "supervised",
        **over_draws(rows, subsets),
        **settings.described(),
        "seed": seed,
        "num_train": min(len(draw.source) for draw in draws),
        "num_val": len(val),
        "num_classes": len(classes),
        "train": train.name,
        "val": val.name,
    }
