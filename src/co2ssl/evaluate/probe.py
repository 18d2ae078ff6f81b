"""Probes: what the loop measures of an encoder while it trains, as ``(step, encoder) -> dict``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from co2ssl.data.sources import Source, Subset
from co2ssl.evaluate.features import EvaluationError, Precision, extract
from co2ssl.evaluate.knn import DEFAULT_TEMPERATURE, knn
from co2ssl.train.health import embedding_health

Probe = Callable[[int, nn.Module], dict[str, float | str]]


def knn_probe(
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    share: float = 0.1,
    most_images: int = 10_000,
    seed: int = 0,
    k: int | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
) -> Probe:
    """A probe that gives the kNN accuracy of the backbone's features on a seeded share of the training images.

    The share is drawn class by class and cut in two: one half is the bank, the other asks. Validation and test
    images are never read, so watching this number chooses nothing on them.

    Args:
        source: the training images, with labels.
        share: part of them to measure with, 0 to 1, before the limit ``most_images``.

    Returns:
        A function that returns ``top1`` and ``top5`` (shares from 0 to 1).

    Raises:
        EvaluationError: no labels, a class without images, or no class with two.
    """
    bank, queries = probe_split(source, share=share, most_images=most_images, seed=seed)
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
            )
            for part in parts
        )
        result = knn(known, asked, k=k, temperature=temperature, device=device)
        return {name: value for name in ("top1", "top5") if isinstance(value := result[name], float)}

    return probe


def probe_split(
    source: Source, *, share: float, most_images: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the bank and of the queries, each ascending: a seeded draw from every class, cut in two.

    At least two images of a class are taken where it has them; a single image goes to the bank.

    Raises:
        EvaluationError: no labels, a class without images, or no class with two.
    """
    if source.labels is None:
        raise EvaluationError(f"{source.name} has no labels, so kNN accuracy cannot be watched on it")
    missing = sorted(set(range(len(source.classes or ()))) - set(source.labels.tolist()))
    if missing and source.classes is not None:
        names = ", ".join(repr(source.classes[label]) for label in missing[:8])
        raise EvaluationError(f"{source.name} has no image of {names}, so kNN accuracy cannot be watched on it")
    share = min(share, most_images / len(source))
    bank: list[NDArray[np.int64]] = []
    queries: list[NDArray[np.int64]] = []
    for label in np.unique(source.labels):
        places = np.flatnonzero(source.labels == label)
        drawn = np.random.default_rng([seed, int(label)]).permutation(places)[: max(2, round(share * len(places)))]
        half = (len(drawn) + 1) // 2
        bank.append(drawn[:half])
        queries.append(drawn[half:])
    if not any(len(part) for part in queries):
        raise EvaluationError(f"no class of {source.name} has two images, so kNN accuracy cannot be watched on it")
    return np.sort(np.concatenate(bank)), np.sort(np.concatenate(queries))


def spread_probe(
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    num_images: int = 1024,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
) -> Probe:
    """A probe that needs no labels: how far apart, and in how many directions, the embeddings of some images lie.

    Args:
        source: the training images.
        num_images: size of the seeded sample, the same at every call (all images where there are fewer).

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
        ).features
        return embedding_health(embeddings)

    return probe


def _backbone(encoder: nn.Module) -> nn.Module:
    backbone = getattr(encoder, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"a {type(encoder).__name__} has no .backbone to take features from")
    return backbone
