"""Linear classification of cached features by L-BFGS: the fast form of the linear protocol.

The published protocol (SGD for 100 epochs on random crops) asks the same question of augmented images; its
numbers and these are not interchangeable, which is why the protocol's name is part of every result.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from co2ssl.evaluate.features import EvaluationError, Features, matched_labels
from co2ssl.evaluate.logistic import Classifier, Directions, fit, main_directions
from co2ssl.evaluate.metrics import accuracies
from co2ssl.evaluate.progress import Progress

LBFGS_PROTOCOL = "linear (L-BFGS on cached features)"

# Weight of half the squared norm of the classifier beside the mean cross-entropy; strong first, because each
# fit starts from the one before it.
PENALTIES = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(2.0, -6.5, -0.5))


def linear_lbfgs(train: Features, val: Features, *, seed: int = 0, quiet: bool = True) -> dict[str, object]:
    """Accuracy on ``val`` of multinomial logistic regression on frozen features.

    Features are standardised with the statistics of ``train``. The penalty is the one with the lowest
    cross-entropy on a seeded tenth of the training images, drawn class by class; the classifier is then fitted
    to all of them. ``val`` is read once, at the end.

    Args:
        train: what is fitted; its classes are the classes.
        val: what is measured; classes are matched by name.
        seed: of the held-out tenth.
        quiet: no progress.

    Returns:
        A plain dict: ``protocol``, ``top1`` and ``top5`` (shares from 0 to 1), ``penalty``, ``held_out`` (the
        penalties tried and their cross-entropies), ``converged``, counts, names of the sources, ``seconds``.

    Raises:
        EvaluationError: labels that cannot be used (see :func:`matched_labels`), or no class of two images.
    """
    started = time.perf_counter()
    _, val_labels, classes = matched_labels(train, val)
    scores, details = lbfgs_scores(train, val, seed=seed, quiet=quiet)
    return {
        "protocol": LBFGS_PROTOCOL,
        **accuracies(scores, val_labels),
        **details,
        "seed": seed,
        "num_train": len(train),
        "num_val": len(val),
        "num_classes": len(classes),
        "num_features": train.features.shape[1],
        "train": train.source,
        "val": val.source,
        "seconds": time.perf_counter() - started,
    }


def lbfgs_scores(
    train: Features, val: Features, *, seed: int = 0, quiet: bool = True
) -> tuple[Tensor, dict[str, object]]:
    """The logits (M, C) that :func:`linear_lbfgs` takes its accuracies from, and how the classifier was found.

    Raises:
        EvaluationError: as there.
    """
    train_labels, _, classes = matched_labels(train, val)
    known = train.features.float()
    mean, scale = _statistics(known)
    images = (known - mean) / scale
    places = held_out_tenth(train_labels.numpy(), seed=seed)
    fitted, held_out = (torch.from_numpy(part) for part in places)
    if len(held_out) == 0:
        raise EvaluationError(
            f"every class of {train.source} has a single image, so none can be held out to choose the penalty: "
            "give at least two images of some class"
        )
    directions = main_directions(images)
    with Progress("linear classifier", total=len(PENALTIES) + 1, unit="fits", quiet=quiet) as shown:
        penalty, tried, start = _choose_penalty(
            images, train_labels, fitted, held_out, num_classes=len(classes), directions=directions, shown=shown
        )
        # Penalties that were not tried took no time, and say nothing of how long this fit takes.
        shown.begin(len(PENALTIES))
        classifier = fit(
            images,
            train_labels,
            num_classes=len(classes),
            penalty=penalty,
            directions=directions,
            start=start,
            on_step=_steps(shown, f"all images, penalty {penalty:g}"),
        )
        shown.advance(1)
    details: dict[str, object] = {
        "penalty": penalty,
        "held_out": tried,
        "num_held_out": len(held_out),
        "converged": classifier.converged,
    }
    return classifier.logits((val.features.float() - mean) / scale), details


def held_out_tenth(labels: NDArray[np.int64], *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of nine tenths and of one tenth of the rows, each ascending, drawn class by class.

    Of a class with two or more images at least one is on either side; a single image stays in the first part.
    """
    held_out: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        count = min(max(1, round(len(places) / 10)), len(places) - 1)
        held_out.append(np.random.default_rng([seed, int(label)]).permutation(places)[:count])
    second = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), second), second


def _choose_penalty(
    images: Tensor,
    labels: Tensor,
    fitted: Tensor,
    held_out: Tensor,
    *,
    num_classes: int,
    directions: Directions,
    shown: Progress,
) -> tuple[float, dict[str, float], Classifier | None]:
    """The penalty, the cross-entropy of each one tried, and the classifier at the best of them."""
    part, part_labels, unseen = images[fitted], labels[fitted], images[held_out]
    tried: dict[str, float] = {}
    best, best_loss = PENALTIES[0], float("inf")
    found: Classifier | None = None
    for penalty in PENALTIES:
        classifier = fit(
            part,
            part_labels,
            num_classes=num_classes,
            penalty=penalty,
            directions=directions,
            start=found,
            on_step=_steps(shown, f"penalty {penalty:g}"),
        )
        loss = float(cross_entropy(classifier.logits(unseen), labels[held_out]))
        tried[f"{penalty:g}"] = loss
        shown.advance(1, f"penalty {penalty:g}, held-out loss {loss:.4g}")
        if loss >= best_loss:
            # Along the path the loss falls and then rises: what follows is slower to fit and worse.
            break
        best, best_loss, found = penalty, loss, classifier
    return best, tried, found


def _steps(shown: Progress, words: str) -> Callable[[int], None]:
    """What says, after each step of a fit, which fit and which step it was."""
    return lambda step: shown.advance(0, f"{words}, step {step}")


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; a constant feature is left at zero rather than divided by it."""
    scale, mean = torch.std_mean(features, dim=0, correction=0)
    return mean, torch.where(scale > 1e-6 * (mean.abs() + 1e-12), scale, torch.ones_like(scale))
