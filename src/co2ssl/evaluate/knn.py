"""Weighted k-nearest-neighbour classification, in bounded memory.

Source: Wu et al., InsDisc (2018), section 3.4; k = 200 and temperature 0.07 as in its code.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from co2ssl.errors import UsageError
from co2ssl.evaluate.features import Features, matched_labels
from co2ssl.evaluate.metrics import accuracies

DEFAULT_TEMPERATURE = 0.07
MOST_NEIGHBOURS = 200
QUERY_BLOCK = 1024
BANK_BLOCK = 8192


def knn(
    train: Features,
    val: Features,
    *,
    k: int | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    device: torch.device | str = "cpu",
) -> dict[str, object]:
    """Accuracy on ``val`` of a weighted vote of the nearest training images.

    Args:
        train: the bank; its classes are the classes.
        val: the queries; classes are matched with the bank's by name.
        k: neighbours that vote; None for :func:`default_neighbours`.
        temperature: a neighbour with cosine similarity s votes with weight exp(s / temperature).
        device: where the products are computed; the features stay where they are.

    Returns:
        A plain dict: ``protocol``, ``top1`` and ``top5`` (shares from 0 to 1), ``k``, ``temperature``, counts,
        names of the sources, ``seconds``.

    Raises:
        EvaluationError: labels that cannot be used (see :func:`matched_labels`).
        UsageError: ``k`` or ``temperature`` out of range.
    """
    started = time.perf_counter()
    train_labels, val_labels, classes = matched_labels(train, val)
    if k is None:
        k = default_neighbours(len(train), len(classes))
    if not 1 <= k <= len(train):
        raise UsageError(f"k is {k}: it must lie between 1 and {len(train)}, the number of images in {train.source}")
    if not temperature > 0:
        raise UsageError(f"the kNN temperature is {temperature}: it must be above 0")
    similarity, place = nearest(train.features, val.features, k=k, device=device)
    scores = vote(similarity, train_labels[place], num_classes=len(classes), temperature=temperature)
    return {
        "protocol": "knn",
        **accuracies(scores, val_labels),
        "k": k,
        "temperature": temperature,
        "num_train": len(train),
        "num_val": len(val),
        "num_classes": len(classes),
        "num_features": train.features.shape[1],
        "train": train.source,
        "val": val.source,
        "seconds": time.perf_counter() - started,
    }


def default_neighbours(num_train: int, num_classes: int) -> int:
    """200 as in InsDisc, but no more than a class has images on average, beyond which only others can vote."""
    return max(1, min(MOST_NEIGHBOURS, num_train // num_classes))


def vote(similarity: Tensor, labels: Tensor, *, num_classes: int, temperature: float) -> Tensor:
    """Sum of exp(similarity / temperature) per class: (N, k), (N, k) int64 -> scores (N, num_classes) float64.

    Each row is scaled so that its nearest neighbour weighs 1: no temperature overflows, and no order changes.
    """
    similarity = similarity.double()
    weight = ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).exp()
    scores = torch.zeros(len(labels), num_classes, dtype=torch.float64, device=labels.device)
    return scores.scatter_add_(1, labels, weight)


def nearest(
    bank: Tensor,
    queries: Tensor,
    *,
    k: int,
    device: torch.device | str = "cpu",
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of ``bank`` with the highest cosine similarity to each query, best first.

    Needs memory for a block of queries times a block of the bank, and never a copy of either set. Of equally
    similar rows the earlier one counts as nearer.

    Args:
        bank: (N, F), any floating-point type, 1 <= k <= N.
        queries: (M, F).

    Returns:
        similarity (M, k) float32 and place in the bank (M, k) int64, both on the CPU.
    """
    similarity = torch.empty(len(queries), k)
    place = torch.empty(len(queries), k, dtype=torch.int64)
    for first_query in range(0, len(queries), query_block):
        rows = slice(first_query, first_query + query_block)
        query = F.normalize(queries[rows].to(device, torch.float32), dim=1)
        best = torch.empty(len(query), 0, device=device)
        where = torch.empty(len(query), 0, dtype=torch.int64, device=device)
        for first in range(0, len(bank), bank_block):
            block = F.normalize(bank[first : first + bank_block].to(device, torch.float32), dim=1)
            new, new_where = _highest(query @ block.T, k)
            # Earlier rows stand first, and the stable sort keeps them first among equals.
            best, order = torch.cat([best, new], dim=1).sort(dim=1, descending=True, stable=True)
            where = torch.cat([where, new_where + first], dim=1).gather(1, order)
            best, where = best[:, :k], where[:, :k]
        similarity[rows], place[rows] = best.cpu(), where.cpu()
    return similarity, place


def _highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row (all, if fewer), descending, equals in the order of their columns."""
    k = min(k, scores.shape[1])
    values, columns = scores.topk(k, dim=1)
    columns, order = columns.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # topk may keep any of the columns that equal the last one kept; such rows are sorted whole.
    tied = (scores >= values[:, -1:]).sum(dim=1) > k
    if bool(tied.any()):
        whole, order = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = whole[:, :k], order[:, :k]
    return values, columns
