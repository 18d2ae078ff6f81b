"""Weighted k-nearest-neighbour classification, in bounded memory.

Source: Wu et al., InsDisc (2018), section 3.4; k = 200 and temperature 0.07 as in its code.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from co2ssl.errors import UsageError
from co2ssl.evaluate.features import Features, matched_labels
from co2ssl.evaluate.metrics import accuracies
from co2ssl.evaluate.progress import Progress

DEFAULT_TEMPERATURE = 0.07
MOST_NEIGHBOURS = 200
QUERY_BLOCK = 1024
BANK_BLOCK = 16384
"""A wide block suits topk: its heap of 200 then turns almost everything away with one comparison."""
GROUP_BYTES = 1 << 28
"""Of normalised queries that wait while the bank goes by, and of normalised rows of the bank that they meet."""

Advance = Callable[[int], None]
"""Called with how many more pairs of a query and a row of the bank have been compared."""


def knn(
    train: Features,
    val: Features,
    *,
    k: int | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    device: torch.device | str = "cpu",
    quiet: bool = True,
) -> dict[str, object]:
    """Accuracy on ``val`` of a weighted vote of the nearest training images.

    Args:
        train: the bank; its classes are the classes.
        val: the queries; classes are matched with the bank's by name.
        k: neighbours that vote; None for :func:`default_neighbours`.
        temperature: a neighbour with cosine similarity s votes with weight exp(s / temperature).
        device: where the products are computed; the features stay where they are.
        quiet: no progress.

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
    with Progress("nearest neighbours", total=len(train) * len(val), unit="comparisons", quiet=quiet) as shown:
        similarity, place = nearest(train.features, val.features, k=k, device=device, advance=shown.advance)
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
    advance: Advance | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of ``bank`` with the highest cosine similarity to each query, best first.

    Both sets may be mapped from files. Needs memory for a group of queries, a block of the bank and their products
    (:data:`GROUP_BYTES` bounds the first two), and never a copy of either set. Of equally similar rows the earlier one
    counts as nearer.

    Args:
        bank: (N, F), any floating-point type, 1 <= k <= N.
        queries: (M, F).
        query_block: most queries in one product.
        bank_block: most rows of the bank in one product.
        advance: called after each block of the bank as pairs get compared, of which there are N times M.

    Returns:
        similarity (M, k) float32 and place in the bank (M, k) int64, both on the CPU.
    """
    similarity = torch.empty(len(queries), k)
    place = torch.empty(len(queries), k, dtype=torch.int64)
    fitting = max(1, GROUP_BYTES // (4 * bank.shape[1]))
    group = max(query_block, fitting)
    bank_block = min(bank_block, fitting)
    for first in range(0, len(queries), group):
        rows = slice(first, first + group)
        query = F.normalize(queries[rows].to(device, torch.float32), dim=1)
        values, places = _nearest_of(query, bank, k, query_block=query_block, bank_block=bank_block, advance=advance)
        similarity[rows], place[rows] = values.cpu(), places.cpu()
    return similarity, place


def _nearest_of(
    query: Tensor, bank: Tensor, k: int, *, query_block: int, bank_block: int, advance: Advance | None
) -> tuple[Tensor, Tensor]:
    """Similarity and place (M, k) of normalised queries (M, F), on their device; the bank is read once."""
    similarity = torch.empty(len(query), k, device=query.device)
    place = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    # What a query has found so far and its products with a block stand side by side, and one search reads both.
    buffer = torch.empty(min(query_block, len(query)), k + bank_block, device=query.device)
    for first in range(0, len(bank), bank_block):
        block = F.normalize(bank[first : first + bank_block].to(query.device, torch.float32), dim=1)
        found = min(first, k)
        for start in range(0, len(query), query_block):
            rows = slice(start, start + query_block)
            scores = buffer[: len(query[rows]), : found + len(block)]
            scores[:, :found] = similarity[rows, :found]
            torch.mm(query[rows], block.T, out=scores[:, found:])
            values, columns = _highest(scores, k)
            where = columns + (first - found)
            if found:
                earlier = place[rows, :found].gather(1, columns.clamp(max=found - 1))
                where = torch.where(columns < found, earlier, where)
            similarity[rows, : values.shape[1]], place[rows, : values.shape[1]] = values, where
        if advance is not None:
            advance(len(query) * len(block))
    return similarity, place


def _highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row (all, if fewer), descending, equals in the order of their columns."""
    k = min(k, scores.shape[1])
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # Of columns that equal the last one kept, topk may keep any. The one after it tells whether there are such.
    tied = values[:, k - 1] == values[:, k] if values.shape[1] > k else torch.zeros(0, dtype=torch.bool)
    columns = columns[:, :k]
    if bool(tied.any()):
        columns[tied] = _earliest(scores[tied], values[tied, k - 1 : k], k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _earliest(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Columns (n, k) of all above ``last`` (n, 1), the k-th highest of each row, and of the first that equal it."""
    above, equal = scores > last, scores == last
    wanted = k - above.sum(dim=1, keepdim=True)
    return (above | (equal & (equal.cumsum(dim=1) <= wanted))).nonzero()[:, 1].view(-1, k)
