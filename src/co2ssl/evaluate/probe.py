"""Probes: what the loop measures of an encoder while it trains, as ``(step, encoder) -> dict``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from co2ssl.data.sources import Source, Subset
from co2ssl.evaluate.features import EvaluationError, Features, Precision, extract
from co2ssl.evaluate.knn import DEFAULT_TEMPERATURE, knn
from co2ssl.train.health import ADVICE, embedding_health

MOST_QUERIES = 1_000
MOST_BANK = 5_000

UNLIMITED = 1.0
"""Bad images among those of a probe: training counts them over all images, and is what stops."""

Probe = Callable[[int, nn.Module], dict[str, float | str]]


def knn_probe(
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    share: float = 0.1,
    most_queries: int = MOST_QUERIES,
    most_bank: int = MOST_BANK,
    seed: int = 0,
    k: int | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
) -> Probe:
    """A probe that gives the kNN accuracy of the backbone's features on some of the training images.

    A seeded share of them asks, and others are the bank (:func:`probe_split`). Validation and test images are never
    read, so watching this number chooses nothing on them. At most 6,000 images go through the backbone each time.

    Args:
        source: the training images, with labels.
        share: part of them that asks, 0 to 1, before the limit ``most_queries``.
        most_queries: most images that ask.
        most_bank: most images of the bank.

    Returns:
        A function that returns ``top1`` and ``top5`` (shares from 0 to 1); nothing where too few images can be read.

    Raises:
        EvaluationError: no labels, images of one class alone, or no class with two.
    """
    bank, queries = probe_split(source, share=share, most_queries=most_queries, most_bank=most_bank, seed=seed)
    parts = Subset(source, bank), Subset(source, queries)

    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        del step
        known, asked = (
            extract(
                _backbone(encoder),
                part,
                image_size=image_size,
                resize=resize,
                batch_size=batch_size,
                device=device,
                precision=precision,
                workers=workers,
                max_bad_share=UNLIMITED,
            )
            for part in parts
        )
        pair = of_known_classes(known, asked)
        if pair is None:
            return {}
        result = knn(*pair, k=k, temperature=temperature, device=device)
        return {name: value for name in ("top1", "top5") if isinstance(value := result[name], float)}

    return probe


def probe_split(
    source: Source, *, share: float, most_queries: int, most_bank: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the bank and of the queries, each ascending, drawn class by class.

    Of every class one image is in the bank; the queries are ``share`` of all images, one from each class if there is
    room; the bank takes what is left, because kNN accuracy grows with the bank. Both are in proportion to the classes.

    Args:
        source: the training images.
        share: part of the images that asks, 0 to 1.
        most_queries: most images that ask.
        most_bank: most images of the bank, but one from each class in any case.
        seed: of the draw.

    Raises:
        EvaluationError: no labels, images of one class alone, or no class with two.
    """
    if source.labels is None:
        raise EvaluationError(f"{source.name} has no labels, so kNN accuracy cannot be watched on it")
    if len(np.unique(source.labels)) < 2:
        raise EvaluationError(f"{source.name} has images of one class alone, so kNN accuracy cannot be watched on it")
    drawn = [
        np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(source.labels == label))
        for label in np.unique(source.labels)
    ]
    spare = np.array([len(places) - 1 for places in drawn])
    if not spare.any():
        raise EvaluationError(f"no class of {source.name} has two images, so kNN accuracy cannot be watched on it")
    wanted = max(int(np.count_nonzero(spare)), round(share * len(source)))
    asking = allotted(spare, min(most_queries, wanted))
    known = 1 + allotted(spare - asking, max(0, most_bank - len(drawn)))
    bank = [places[:count] for places, count in zip(drawn, known, strict=True)]
    queries = [places[len(places) - count :] for places, count in zip(drawn, asking, strict=True)]
    return np.sort(np.concatenate(bank)), np.sort(np.concatenate(queries))


def of_known_classes(known: Features, asked: Features) -> tuple[Features, Features] | None:
    """Both without the classes of which ``known`` has no image, be it that they are empty or that none can be read.

    Returns:
        The two, on a numbering of the classes that are left; None where these are fewer than two, or nobody asks.
    """
    assert known.labels is not None, "probe_split() refuses a source without labels"
    assert asked.labels is not None, "probe_split() refuses a source without labels"
    assert known.classes is not None, "a source with labels has classes"
    there = torch.unique(known.labels)
    asked = asked.rows(torch.isin(asked.labels, there).nonzero().flatten())
    if len(there) < 2 or len(asked) == 0:
        return None
    names = tuple(known.classes[label] for label in there.tolist())
    numbering = torch.full((len(known.classes),), -1)
    numbering[there] = torch.arange(len(there))
    labels = [numbering[features.labels] for features in (known, asked) if features.labels is not None]
    return replace(known, labels=labels[0], classes=names), replace(asked, labels=labels[1], classes=names)


def allotted(available: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` (all there is, if that is less) divided in proportion to ``available`` (C,), by largest remainders."""
    everything = int(available.sum())
    if total >= everything:
        return available
    exact = available * (total / everything)
    given: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    # Of equal remainders the class that comes first.
    order = np.argsort(given - exact, kind="stable")
    given[order[: total - int(given.sum())]] += 1
    return given


def spread_probe(
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    num_images: int = 1024,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    advice: str = ADVICE,
) -> Probe:
    """A probe that needs no labels: how far apart, and in how many directions, the embeddings of some images lie.

    Args:
        source: the training images.
        num_images: size of the seeded sample, the same at every call (all images where there are fewer).
        advice: what the warning says to do.

    Returns:
        A function that returns ``spread`` and ``effective_rank`` (see :mod:`co2ssl.train.health`) of the
        encoder's embeddings, and ``warning``, in words, where they have collapsed.
    """
    drawn = np.random.default_rng(seed).permutation(len(source))[:num_images]
    sample = Subset(source, np.sort(drawn))

    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        del step
        embeddings = extract(
            encoder,
            sample,
            image_size=image_size,
            resize=resize,
            batch_size=batch_size,
            device=device,
            precision=precision,
            workers=workers,
            max_bad_share=UNLIMITED,
        ).features
        return embedding_health(embeddings, advice=advice)

    return probe


def _backbone(encoder: nn.Module) -> nn.Module:
    backbone = getattr(encoder, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"a {type(encoder).__name__} has no .backbone to take features from")
    return backbone
