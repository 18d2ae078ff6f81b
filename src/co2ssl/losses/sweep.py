"""The loss in one pass over a constant table: memory that does not grow with K.

For each row the un-normalised sums of e^b n, e^b delta n, e^a n and e^l n and of their weights are enough, with a
and b the logits of the positive and of the query at the consistency's temperature, delta = b - a, and l the query's
at the instance loss's. Value and gradient follow at the end. Two products a block: [query; positive] with the
block's negatives, and the stacked weights with them again.

Where the scores are too large for plain exponentials a running maximum is subtracted, and what has been added up is
scaled down whenever it rises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from co2ssl.losses.scores import outranked_below
from co2ssl.losses.settings import Inputs, Needs, Results, Settings, allocate
from co2ssl.losses.sums import Swept, finish, make_slots

# Rows and negatives of one block: its seven matrices of float32 (14 MB) fit in a last-level cache. Smaller blocks cost
# more hand-overs between threads, which hurts where other processes want the same cores.
BLOCK_ROWS = 256
BLOCK_NEGATIVES = 2048
MOST_WIDENING = 4

# Stands for minus infinity where the difference of two must stay a number; far below any score, far above overflow.
FAR_BELOW = -1e30


def loss_by_sweep(inputs: Inputs, settings: Settings, needs: Needs) -> Results:
    """Values of every row and their gradient to query and positive; the (K, D) table is a constant.

    The score must be linear in the inner product. Rows are independent, so they are taken in tiles.
    """
    results = allocate(inputs, needs)
    safe = settings.needs_no_maximum(inputs.num_negatives, inputs.dtype)
    for start in range(0, inputs.query.shape[0], BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        tile = _Tile(inputs, settings, needs, rows, safe=safe)
        width = block_negatives(tile.num_rows)
        for begin in range(0, inputs.num_negatives, width):
            tile.take(inputs, slice(begin, min(begin + width, inputs.num_negatives)))
        tile.finish(results)
    return results


def block_negatives(num_rows: int) -> int:
    """Negatives of a block: with fewer rows more of them, up to four times, as each block is a hand-over to threads."""
    return BLOCK_NEGATIVES * min(MOST_WIDENING, max(1, BLOCK_ROWS // max(1, num_rows)))


class _Tile:
    """Some rows on their way through the table: what has been added up so far."""

    def __init__(self, inputs: Inputs, settings: Settings, needs: Needs, rows: slice, *, safe: bool) -> None:
        self.rows, self.settings, self.needs, self.safe = rows, settings, needs, safe
        dtype, device = inputs.dtype, inputs.query.device
        self.query = inputs.query[rows].to(dtype)  # (N, D)
        self.positive = inputs.positive[rows].to(dtype).transpose(0, 1)  # (M, N, D)
        self.num_positives, self.num_rows, width = self.positive.shape
        self.slots = make_slots(self.num_rows, self.num_positives, inputs, settings, needs)
        # Logits at the consistency's temperature come straight out of the product; l is b times ``cooling``.
        self.unit = settings.consistency_temperature if settings.consistency_weight else settings.temperature
        self.cooling = self.unit / settings.temperature
        vectors = self.query[None]
        if settings.consistency_weight:
            vectors = torch.cat([vectors, self.positive])
        self.vectors = (vectors * (settings.scale / self.unit)).reshape(-1, width)  # ((1 + M) N, D) or (N, D)
        self.pair = (self.query * self.positive).sum(dim=2) * (settings.scale / self.unit)  # (M, N)
        self.sums = torch.zeros(self.slots.summed, dtype=dtype, device=device)
        self.products = torch.zeros(self.slots.multiplied, width, dtype=dtype, device=device)
        self.bar = outranked_below(self.pair)  # (M, N)
        self.not_above = torch.zeros(self.num_positives, self.num_rows, dtype=dtype, device=device)
        self.logit_sum = torch.zeros(self.num_rows, dtype=dtype, device=device)
        # Running maxima, in units of ``unit``: of P and Q, of the instance loss, of what joins its numerator.
        start = 0.0 if safe else FAR_BELOW / 10
        self.shift = torch.full((self.vectors.shape[0],), start, dtype=dtype, device=device)
        self.instance_shift = torch.full((self.num_rows,), start, dtype=dtype, device=device)
        self.joined_shift = self.instance_shift
        self.entries = inputs.num_negatives
        self.buffers: tuple[Tensor, Tensor, Tensor] | None = None

    def take(self, inputs: Inputs, columns: slice) -> None:
        """Add one block of negatives."""
        table = inputs.negatives[columns].to(inputs.dtype)  # (B, D)
        logits, weights, scratch = self._buffers(table)
        torch.mm(self.vectors, table.T, out=logits)
        kept, also = _masks(inputs, self.rows, columns)
        by_vector = logits.view(-1, self.num_rows, table.shape[0])  # (1 + M or 1, N, B)
        if kept is not None:
            by_vector.masked_fill_(~kept, FAR_BELOW)
        ranked = by_vector[0] if also is None else by_vector[0].masked_fill(also, FAR_BELOW)
        for count, bar in zip(self.not_above, self.bar, strict=True):
            # "Not below" counts as above, so that a NaN score never looks like a hit.
            count += torch.lt(ranked, bar[:, None], out=scratch).sum(dim=1)
        if self.settings.instance_weight:
            self._weigh_instance(by_vector[0], kept, also, weights)
        if self.settings.consistency_weight:
            self._weigh_consistency(by_vector, also, weights)
        self.sums += weights.sum(dim=1)
        if self.slots.multiplied:
            self.products.addmm_(weights[: self.slots.multiplied], table)

    def _buffers(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = table.shape[0]
        if self.buffers is None or self.buffers[0].shape[1] != size:
            self.buffers = (
                table.new_empty(self.vectors.shape[0], size),
                table.new_empty(self.slots.summed, size),
                table.new_empty(self.num_rows, size),
            )
        return self.buffers

    def _weigh_instance(self, logits: Tensor, kept: Tensor | None, also: Tensor | None, weights: Tensor) -> None:
        slots = self.slots
        assert slots.instance is not None
        out = weights[slots.instance]
        if self.safe:
            torch.mul(logits, self.cooling, out=out)
        else:
            self._raise_instance_shift(logits)
            torch.sub(logits, self.instance_shift[:, None], out=out)
            out.mul_(self.cooling)
        out.exp_()
        if slots.joined is not None:
            assert also is not None
            self._weigh_joined(logits, also, weights[slots.joined])
        if slots.uniform is not None:
            uniform = weights[slots.uniform]
            uniform.fill_(1)
            if kept is not None:
                uniform.mul_(kept)
            self.logit_sum += (logits * uniform).sum(dim=1) * self.cooling

    def _weigh_joined(self, logits: Tensor, also: Tensor, out: Tensor) -> None:
        among = logits.masked_fill(~also, FAR_BELOW)
        if not self.safe:
            # Of their own: far below the largest logit of the row they would vanish.
            risen = torch.maximum(self.joined_shift, among.amax(dim=1))
            self._scale(self.slots.joined, ((self.joined_shift - risen) * self.cooling).exp())
            self.joined_shift = risen
            among.sub_(risen[:, None])
        torch.exp(among.mul_(self.cooling), out=out)

    def _weigh_consistency(self, logits: Tensor, also: Tensor | None, weights: Tensor) -> None:
        slots = self.slots
        assert slots.query is not None
        assert slots.positive is not None
        if also is not None:
            logits = logits.masked_fill(also, FAR_BELOW)
        shifted = logits
        if not self.safe:
            self._raise_shift(logits)
            shifted = logits - self.shift.view(-1, self.num_rows, 1)
        of_query = torch.exp(shifted[0], out=weights[slots.query])
        of_positive = torch.exp(shifted[1:], out=weights[slots.positive].view(*shifted[1:].shape))
        if slots.query_delta is None and slots.positive_delta is None:
            return
        delta = torch.sub(logits[0], logits[1:], out=logits[1:])
        for slot, weight in ((slots.query_delta, of_query), (slots.positive_delta, of_positive)):
            if slot is not None:
                torch.mul(weight, delta, out=weights[slot].view(*delta.shape))

    def _raise_instance_shift(self, logits: Tensor) -> None:
        risen = torch.maximum(self.instance_shift, logits.amax(dim=1))
        self._scale(self.slots.instance, ((self.instance_shift - risen) * self.cooling).exp())
        self.instance_shift = risen

    def _raise_shift(self, logits: Tensor) -> None:
        risen = torch.maximum(self.shift, logits.amax(dim=2).flatten())
        shrink = (self.shift - risen).exp()
        of_query, of_positive = shrink[: self.num_rows], shrink[self.num_rows :]
        self._scale(self.slots.query, of_query)
        self._scale(self.slots.query_delta, of_query.repeat(self.num_positives))
        self._scale(self.slots.positive, of_positive)
        self._scale(self.slots.positive_delta, of_positive)
        self.shift = risen

    def _scale(self, slot: slice | None, factor: Tensor) -> None:
        if slot is not None:
            self.sums[slot] *= factor
            if slot.stop <= self.slots.multiplied:
                self.products[slot] *= factor[:, None]

    def finish(self, results: Results) -> None:
        """Turn the sums into values and gradients of these rows."""
        entries = self.entries
        swept = Swept(
            query=self.query,
            positive=self.positive,
            slots=self.slots,
            sums=self.sums,
            products=self.products,
            shift=self.shift,
            instance_shift=self.instance_shift * self.cooling,
            joined_shift=self.joined_shift * self.cooling,
            pair=self.pair * self.cooling,
            logit_sum=self.logit_sum,
        )
        finish(swept, self.settings, self.needs, results, self.rows)
        if self.settings.instance_weight:
            results.above[self.rows] = (entries - self.not_above).T


def _masks(inputs: Inputs, rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
    """(N, B) bool: entries that count, entries that join the numerator; None where all do, or none."""
    kept = None
    if inputs.row_id is not None and inputs.negative_id is not None:
        kept = inputs.negative_id[columns] != inputs.row_id[rows][:, None]
    if inputs.valid is not None:
        valid = inputs.valid[rows, columns]
        kept = valid if kept is None else kept & valid
    also = None if inputs.also_positive is None else inputs.also_positive[rows, columns]
    return kept, also
