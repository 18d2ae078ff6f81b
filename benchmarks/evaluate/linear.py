"""The linear protocol in full and by L-BFGS on cached features: the paired difference, and the time of each.

    python -m benchmarks.evaluate.linear RUN TRAIN VAL [--name imagenette] [--lr 30 15] [--epochs 100]

Asked for, on Imagenette: a difference of at most 1.5 points, in at most a fortieth of the time. Both begin without
features; both measure the same images, so the difference is paired, and its interval comes from resampling images. It
says how far the two forms differ on this backbone and this data, not how either varies with the seed.

Writes ``benchmarks/evaluate/linear-NAME.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.evaluate.surroundings import HERE, surroundings, write
from co2ssl.api.backbones import Representation, representation
from co2ssl.api.machine import build_device
from co2ssl.config import RunOptions
from co2ssl.data.sources import Source, open_source
from co2ssl.evaluate.classifiers import Classifiers
from co2ssl.evaluate.feature_key import network_hash
from co2ssl.evaluate.features import labels_of, matched_labels
from co2ssl.evaluate.linear import lbfgs_scores
from co2ssl.evaluate.linear_sgd import EPOCHS, LEARNING_RATES, LinearSettings, new_classifiers, train_classifiers
from co2ssl.evaluate.metrics import ranks

RESAMPLES = 10_000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "train", "val"):
        parser.add_argument(name)
    parser.add_argument("--name", default="imagenette")
    parser.add_argument("--lr", type=float, nargs="+", default=list(LEARNING_RATES))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    measured = representation(given.run)
    settings = LinearSettings(
        image_size=measured.image_size,
        lrs=tuple(given.lr),
        epochs=given.epochs,
        seed=given.seed,
        precision=measured.precision,
    )
    where = surroundings("benchmarks.evaluate.linear", arguments)
    train, val = open_source(given.train, "train"), open_source(given.val, "val")
    result = compare(measured, train, val, settings, workers=given.workers)
    write(given.out / f"linear-{given.name}.json", {**where, **result})


def compare(
    measured: Representation, train: Source, val: Source, settings: LinearSettings, *, workers: int
) -> dict[str, Any]:
    """Both forms, one after the other."""
    device = build_device(RunOptions())
    _, labels, classes = matched_labels(labels_of(train), labels_of(val))
    began = time.perf_counter()
    known = measured.features(train, device=device, workers=workers)
    asked = measured.features(val, device=device, workers=workers)
    labels = labels[asked.index]
    scores, details = lbfgs_scores(known, asked, seed=settings.seed)
    fast_seconds = time.perf_counter() - began
    fast = right(scores, labels)
    began = time.perf_counter()
    asked = measured.features(val, device=device, workers=workers)
    classifiers: Classifiers = new_classifiers(settings, asked.features.shape[1], len(classes))
    train_classifiers(classifiers, measured.backbone, train, settings, device=device, workers=workers, quiet=False)
    full = [right(own, labels) for own in classifiers.scores(asked.features)]
    full_seconds = time.perf_counter() - began
    return {
        "backbone": measured.name,
        "weights": network_hash(measured.backbone),
        "image_size": measured.image_size,
        "num_train": len(train),
        "num_val": len(asked),
        "epochs": settings.epochs,
        "seed": settings.seed,
        "fast": {"top1": float(fast.mean()), "seconds": round(fast_seconds, 2), **details},
        "full": [
            {"lr": lr, "top1": float(own.mean()), **paired_difference(fast, own)}
            for lr, own in zip(settings.learning_rates, full, strict=True)
        ],
        "full_seconds": round(full_seconds, 2),
        "share_of_the_time": round(fast_seconds / full_seconds, 5),
        "times_faster": round(full_seconds / fast_seconds, 1),
    }


def right(scores: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """1 where the class with the highest score is the image's, else 0: (M,)."""
    return (ranks(scores, labels) == 0).double().numpy()


def paired_difference(fast: NDArray[np.float64], full: NDArray[np.float64]) -> dict[str, Any]:
    """Fast less full in points of accuracy, with the 95 % interval of the bootstrap over images (percentiles)."""
    difference = 100 * (fast - full)
    random = np.random.default_rng(0)
    means = [float(random.choice(difference, len(difference)).mean()) for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "difference_points": round(float(difference.mean()), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "images_that_only_fast_has_right": int((difference > 0).sum()),
        "images_that_only_full_has_right": int((difference < 0).sum()),
        "bootstrap": f"{RESAMPLES} resamples, seed 0",
    }


if __name__ == "__main__":
    main(sys.argv[1:])
