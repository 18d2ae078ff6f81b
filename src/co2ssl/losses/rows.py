"""The loss in blocks of rows: every kind of negatives, every score, gradient to everything.

A block keeps R x K scores alive, so each row's softmax is whole and its final weights are known at once; what
goes back to a shared table is added up block by block. Draws are gathered for the rows of a block only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from co2ssl.losses.options import NO_NEGATIVE
from co2ssl.losses.scores import score_products, to_products
from co2ssl.losses.settings import Inputs, Needs, Results, Settings, allocate
from co2ssl.losses.terms import ConsistencyBlock, consistency_block, instance_block

# Scores (and gathered entries) of one block, in numbers: what fits in a core's share of the cache.
BLOCK_NUMBERS = 1 << 20


@dataclass
class _Block:
    """R rows of the inputs in the compute dtype. With ``swapped``, row i and row i + R/2 are partners."""

    rows: slice | Tensor
    query: Tensor  # (R, D)
    positive: Tensor  # (R, M, D)
    table: Tensor  # (K, D), or (R, K, D) where each row has entries of its own
    drawn: Tensor | None  # (R, J): places in the table, where they were drawn from one
    kept: Tensor | None  # (R, K)
    also: Tensor | None  # (R, K)
    swapped: bool

    @property
    def compared(self) -> Tensor | None:
        """(R, K): entries of P and Q; None where every one is."""
        if self.also is None:
            return self.kept
        return ~self.also if self.kept is None else self.kept & ~self.also


def loss_by_rows(inputs: Inputs, settings: Settings, needs: Needs, *, row_weight: Tensor | None = None) -> Results:
    """Values of every row, and the gradient of sum_r row_weight[r] * total[r] (weight 1 by default).

    Args:
        inputs: the comparison.
        settings: of the loss.
        needs: gradients asked for.
        row_weight: (N,), or None for 1.
    """
    results = allocate(inputs, needs)
    for block in _blocks(inputs):
        _require_negatives(block, settings)
        weight = None if row_weight is None else row_weight[block.rows].to(inputs.dtype)
        _add_block(block, inputs, settings, needs, results, weight)
    return results


def scores_by_rows(inputs: Inputs, settings: Settings) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The scores alone, block by block.

    Yields:
        of R rows: scores of the pairs (R, M) and of the entries (R, K), and which entries count, (R, K) bool or None
        where every one does.
    """
    for block in _blocks(inputs):
        pairs, _ = score_products((block.query[:, None] * block.positive).sum(dim=2), settings)
        entries, _ = score_products(_products(block.query[:, None], block.table)[:, 0], settings)
        yield pairs, entries, block.kept


def _blocks(inputs: Inputs) -> Iterator[_Block]:
    num_rows, num_positives, width = inputs.positive.shape
    own = inputs.negatives.dim() == 3 or inputs.negative_index is not None
    numbers_a_row = inputs.num_negatives * (1 + num_positives + (width if own else 0))
    size = max(1, BLOCK_NUMBERS // max(1, numbers_a_row))
    table = inputs.negatives if own else inputs.negatives.to(inputs.dtype)
    if inputs.partner is None:
        for start in range(0, num_rows, size):
            yield _load(inputs, slice(start, start + size), table, swapped=False)
        return
    place = torch.arange(num_rows, device=inputs.partner.device)
    first = (place < inputs.partner).nonzero()[:, 0]
    for some in torch.split(first, max(1, size // 2)):
        yield _load(inputs, torch.cat([some, inputs.partner[some]]), table, swapped=True)


def _load(inputs: Inputs, rows: slice | Tensor, table: Tensor, *, swapped: bool) -> _Block:
    drawn = None
    if inputs.negative_index is not None:
        drawn = inputs.negative_index[rows]
        table = table[drawn]
    elif table.dim() == 3:
        table = table[rows]
    kept = None
    if inputs.row_id is not None and inputs.negative_id is not None:
        entry_id = inputs.negative_id[None] if drawn is None else inputs.negative_id[drawn]
        kept = entry_id != inputs.row_id[rows][:, None]
    if inputs.valid is not None:
        kept = inputs.valid[rows] if kept is None else kept & inputs.valid[rows]
    return _Block(
        rows=rows,
        query=inputs.query[rows].to(inputs.dtype),
        positive=inputs.positive[rows].to(inputs.dtype),
        table=table.to(inputs.dtype),
        drawn=drawn,
        kept=kept,
        also=None if inputs.also_positive is None else inputs.also_positive[rows],
        swapped=swapped,
    )


def _require_negatives(block: _Block, settings: Settings) -> None:
    """Raise ValueError for a row without any (on the CPU; its loss is NaN elsewhere)."""
    counted = block.compared if settings.consistency_weight else block.kept
    if counted is None or counted.device.type != "cpu":
        return
    empty = (~counted.any(dim=1)).nonzero()[:, 0]
    if empty.numel():
        place = int(empty[0])
        row = block.rows.start + place if isinstance(block.rows, slice) else int(block.rows[place])
        raise ValueError(NO_NEGATIVE.format(row=row))


@dataclass
class _Gradient:
    """What a block passes back, with respect to scores and then to inner products."""

    to_query: Tensor  # (R, K)
    to_positive: Tensor | None  # (R, M, K), through P
    to_pairs: Tensor  # (R, M)


def _add_block(
    block: _Block, inputs: Inputs, settings: Settings, needs: Needs, results: Results, weight: Tensor | None
) -> None:
    """Score a block, take both terms of it, and add what they give to the results."""
    pair_products = (block.query[:, None] * block.positive).sum(dim=2)  # (R, M)
    vectors = block.query[:, None]  # (R, S, D): the query, then the positives where they are to be scored
    if settings.consistency_weight and not block.swapped:
        vectors = torch.cat([vectors, block.positive], dim=1)
    products = _products(vectors, block.table)  # (R, S, K)
    pairs, pair_slope = score_products(pair_products, settings)
    scores, slope = score_products(products, settings)
    rows, gradient = block.rows, _Gradient(torch.zeros(()), None, torch.zeros_like(pairs))
    results.total[rows] = 0
    if settings.instance_weight:
        instance = instance_block(pairs, scores[:, 0], block.kept, block.also, settings, inputs.log_normaliser)
        results.above[rows] = instance.above.to(results.above.dtype)
        results.instance[rows] = instance.rows
        results.total[rows] += instance.rows
        gradient = _Gradient(instance.to_entries, None, instance.to_pairs)
    if settings.consistency_weight:
        consistency = _consistency(block, scores, settings, needs)
        results.consistency[rows] = consistency.rows
        results.total[rows] += settings.consistency_weight * consistency.rows
        gradient = _join(gradient, consistency, settings)
    if not needs:
        if settings.instance_weight and settings.penalty:
            _penalise(None, products, pair_products, block, settings, results)
        return
    gradient = _chain(gradient, slope, pair_slope, block, settings)
    if settings.instance_weight and settings.penalty:
        _penalise(gradient, products, pair_products, block, settings, results)
    if weight is not None:
        gradient = _weigh(gradient, weight)
    _pass_back(block, gradient, settings, needs, results)


def _consistency(block: _Block, scores: Tensor, settings: Settings, needs: Needs) -> ConsistencyBlock:
    # P of a row is Q of its partner: the same scores, half a block away.
    of_positive = _swap(scores) if block.swapped else scores[:, 1:]
    through = not settings.detach_positive and (needs.positive or needs.negatives)
    return consistency_block(scores[:, 0], of_positive, block.compared, settings, needs_positive=through)


def _join(gradient: _Gradient, consistency: ConsistencyBlock, settings: Settings) -> _Gradient:
    alpha = settings.consistency_weight
    to_query = consistency.to_query
    to_query = gradient.to_query.add_(to_query, alpha=alpha) if settings.instance_weight else to_query.mul_(alpha)
    to_positive = None if consistency.to_positive is None else consistency.to_positive.mul_(alpha)
    return _Gradient(to_query, to_positive, gradient.to_pairs)


def _chain(
    gradient: _Gradient, slope: Tensor | None, pair_slope: Tensor | None, block: _Block, settings: Settings
) -> _Gradient:
    to_positive = gradient.to_positive
    if to_positive is not None:
        of_positive = None if slope is None else (_swap(slope) if block.swapped else slope[:, 1:])
        to_positive = to_products(to_positive, of_positive, settings)
    return _Gradient(
        to_products(gradient.to_query, None if slope is None else slope[:, 0], settings),
        to_positive,
        to_products(gradient.to_pairs, pair_slope, settings),
    )


def _penalise(
    gradient: _Gradient | None,
    products: Tensor,
    pair_products: Tensor,
    block: _Block,
    settings: Settings,
    results: Results,
) -> None:
    """Add penalty * mean of squared scores (before clipping) over a row's pairs and entries."""
    entries = products[:, 0] * settings.scale
    pairs = pair_products * settings.scale
    counted = torch.full_like(entries[:, :1], entries.shape[1])
    if block.kept is not None:
        entries = entries * block.kept
        counted = block.kept.sum(dim=1, keepdim=True).to(entries.dtype)
    share = settings.penalty / (counted + pairs.shape[1])  # (R, 1)
    penalty = share[:, 0] * (entries.square().sum(dim=1) + pairs.square().sum(dim=1))
    results.instance[block.rows] += penalty
    results.total[block.rows] += penalty
    if gradient is not None:
        gradient.to_query.add_(entries * (2 * settings.scale * share))
        gradient.to_pairs.add_(pairs * (2 * settings.scale * share))


def _weigh(gradient: _Gradient, weight: Tensor) -> _Gradient:
    to_positive = None if gradient.to_positive is None else gradient.to_positive * weight[:, None, None]
    return _Gradient(gradient.to_query * weight[:, None], to_positive, gradient.to_pairs * weight[:, None])


def _pass_back(block: _Block, gradient: _Gradient, settings: Settings, needs: Needs, results: Results) -> None:
    """From inner products to vectors: dq = sum_k g_k n_k, dn_k = sum over rows of g_k q, and the same through P."""
    to_query, to_positive, to_pairs = gradient.to_query, gradient.to_positive, gradient.to_pairs
    if to_positive is not None and block.swapped and settings.same_graph and needs.query and needs.positive:
        to_query, to_positive = to_query.add_(_swap(to_positive)[:, 0]), None
    to_vectors, vectors = to_query[:, None], block.query[:, None]
    if to_positive is not None:
        to_vectors = torch.cat([to_vectors, to_positive], dim=1)
        vectors = torch.cat([vectors, block.positive], dim=1)
    if needs.query or needs.positive:
        back = _times_table(to_vectors, block.table)  # (R, S, D)
        if results.grad_query is not None:
            results.grad_query[block.rows] = back[:, 0] + (to_pairs[:, :, None] * block.positive).sum(dim=1)
        if results.grad_positive is not None:
            to_positives = to_pairs[:, :, None] * block.query[:, None]
            results.grad_positive[block.rows] = to_positives if to_positive is None else to_positives + back[:, 1:]
    if results.grad_negatives is not None:
        _add_to_table(results.grad_negatives, block, to_vectors, vectors)


def _add_to_table(grad_negatives: Tensor, block: _Block, to_vectors: Tensor, vectors: Tensor) -> None:
    width = vectors.shape[2]
    if block.table.dim() == 2:
        grad_negatives.addmm_(to_vectors.reshape(-1, block.table.shape[0]).T, vectors.reshape(-1, width))
        return
    to_entries = to_vectors.transpose(1, 2) @ vectors  # (R, K, D)
    if block.drawn is None:
        grad_negatives[block.rows] = to_entries
    else:
        grad_negatives.index_add_(0, block.drawn.flatten(), to_entries.view(-1, width))


def _products(vectors: Tensor, table: Tensor) -> Tensor:
    """(R, S, D) against (K, D) or (R, K, D): (R, S, K)."""
    if table.dim() == 2:
        return (vectors.reshape(-1, vectors.shape[2]) @ table.T).view(*vectors.shape[:2], table.shape[0])
    return vectors @ table.transpose(1, 2)


def _times_table(weights: Tensor, table: Tensor) -> Tensor:
    """(R, S, K) times (K, D) or (R, K, D): (R, S, D)."""
    if table.dim() == 2:
        return (weights.reshape(-1, table.shape[0]) @ table).view(*weights.shape[:2], -1)
    return weights @ table


def _swap(rows: Tensor) -> Tensor:
    """Exchange the two halves of a block: every row for its partner's."""
    return rows.roll(rows.shape[0] // 2, 0)
