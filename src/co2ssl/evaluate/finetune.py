"""Semi-supervised classification: a whole network fine-tuned on the labels of few images (Table 2).

CO2 (as recalled from the paper; borne out by OpenSelfSup's configuration ``r50_lr0_01_head100``, seen, which is the
same): 20 epochs, learning rate 0.01 of the backbone and 1 of a new linear classifier, both times 0.2 after 12 and 16
epochs, momentum 0.9, weight decay 5e-4 for MoCo and 1e-4 for MoCo v2, random-resized crop and flip, top-5. The batch
of 256 and batch norm over all processes are OpenSelfSup's; CO2's own are not known. The mean of three runs is as
recalled, unverified. OpenSelfSup notes that at 1 % the result hangs on the learning rates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from co2ssl.data.loader import MAX_BAD_SHARE
from co2ssl.data.sources import Source, Subset
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import Precision, labels_of, matched_labels
from co2ssl.evaluate.frozen import unchanged
from co2ssl.evaluate.label_draws import BATCH_SIZE, Draw, over_draws, train_draws
from co2ssl.evaluate.label_subsets import LabelSubset
from co2ssl.evaluate.label_training import TrainingSettings
from co2ssl.evaluate.resumable import Saved

EPOCHS = 20
BACKBONE_LR = 0.01
HEAD_LR = 1.0
WEIGHT_DECAY = 5e-4
MOCO_V2_WEIGHT_DECAY = 1e-4
DROP_SHARES = (0.6, 0.8)
"""12 and 16 of 20 epochs."""
DROP_FACTOR = 0.2


def finetune_settings(
    image_size: int,
    *,
    resize: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    backbone_lr: float = BACKBONE_LR,
    head_lr: float = HEAD_LR,
    weight_decay: float = WEIGHT_DECAY,
    precision: Precision = "float32",
) -> TrainingSettings:
    """The published settings, at an image size in pixels, with changes."""
    return TrainingSettings(
        image_size=image_size,
        resize=resize,
        epochs=epochs,
        batch_size=batch_size,
        backbone_lr=backbone_lr,
        head_lr=head_lr,
        weight_decay=weight_decay,
        drop_shares=DROP_SHARES,
        drop_factor=DROP_FACTOR,
        precision=precision,
    )


def finetune(
    backbone: nn.Module,
    train: Source,
    val: Source,
    subsets: Sequence[LabelSubset],
    settings: TrainingSettings,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    saved: Saved | None = None,
    quiet: bool = True,
) -> dict[str, object]:
    """Accuracy on ``val`` of ``backbone`` and a new classifier, trained on the labels of each subset; and its spread.

    A copy is trained for each subset; ``backbone`` stays, bit for bit, what it was.

    Args:
        backbone: (N, 3, H, W) to (N, F).
        train: labelled images that the subsets are of; its classes are the classes.
        val: labelled images to measure on; classes are matched by name.
        subsets: which images have labels, in each training (:mod:`co2ssl.evaluate.label_subsets`).
        settings: how to train, as from :func:`finetune_settings`.
        seed: of the first training's head, order and crops; the next one has the next seed.
        device: where to compute.
        workers: processes that make crops.
        max_bad_share: share of each subset, and of ``val``, that may be unreadable.
        saved: where the training stands on the disk, so that it goes on after an interruption; None: nowhere.
        quiet: no progress.

    Returns:
        A plain dict: ``protocol``, ``top1`` and ``top5`` (shares from 0 to 1, means over the trainings), ``top1_std``,
        ``top5_std`` (sample deviations), ``draws`` (each training's own, with the ``subset`` it had), settings, counts,
        names of the sources, ``seconds``.

    Raises:
        UsageError: a network without weights, or fewer labelled images than a batch.
        EvaluationError: labels that cannot be used (see :func:`matched_labels`), or a loss that is not finite.
        Interrupted: Ctrl-C or SIGTERM.
        DataError: images that cannot be used.
    """
    if not any(True for _ in backbone.parameters()):
        raise UsageError(f"a {type(backbone).__name__} has no weights, so there is nothing to fine-tune")
    _, _, classes = matched_labels(labels_of(train), labels_of(val))
    draws = [
        Draw(seed=seed + number, source=Subset(train, subset.places), backbone=partial(copy.deepcopy, backbone))
        for number, subset in enumerate(subsets)
    ]
    with unchanged(backbone):
        rows = train_draws(
            draws,
            val,
            settings,
            title="finetune",
            device=device,
            workers=workers,
            max_bad_share=max_bad_share,
            saved=saved,
            quiet=quiet,
        )
    return {
        "protocol": "finetune",
        **over_draws(rows, subsets),
        **settings.described(),
        "seed": seed,
        "num_train": min(map(len, subsets)),
        "num_val": len(val),
        "num_classes": len(classes),
        "train": train.name,
        "val": val.name,
    }
