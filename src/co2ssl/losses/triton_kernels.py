"""GPU kernels of the loss: one sweep for the values, a second that forms the final weights and multiplies with them.

Scores are never written to memory. ``warm`` is one over the instance loss's temperature, ``cool`` one over the
consistency's. Everything is accumulated in float32 with a running maximum. Where query, positive
and table are all of one 16-bit type the products run on it (and the weights are rounded to it, as the gradient is);
otherwise they run in full float32.

Triton's own language has no types that mypy could check.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

# Below any score, yet the difference of two such is a number.
FAR_BELOW = tl.constexpr(-1e30)


@triton.jit
def _load_rows(pointer, places, count, width, upcast: tl.constexpr, block_d: tl.constexpr):
    """Rows ``places`` of a (count, width) matrix, (R, block_d), zero beyond its edges."""
    columns = tl.arange(0, block_d)
    inside = (places[:, None] < count) & (columns[None, :] < width)
    rows = tl.load(pointer + places[:, None].to(tl.int64) * width + columns[None, :], mask=inside, other=0.0)
    return rows.to(tl.float32) if upcast else rows


@triton.jit
def _kept(row_id, negative_id, rows, columns, num_rows, end, has_ids: tl.constexpr):
    """(R, B): entries of this split that are negatives of the row."""
    kept = (columns[None, :] < end) & (rows[:, None] < num_rows)
    if has_ids:
        own = tl.load(row_id + rows, mask=rows < num_rows, other=0)
        theirs = tl.load(negative_id + columns, mask=columns < end, other=0)
        kept = kept & (own[:, None] != theirs[None, :])
    return kept


@triton.jit
def _scores(left, right, scale):
    """(R, D) and (B, D) to (R, B) scores in float32."""
    return tl.dot(left, tl.trans(right), input_precision="ieee") * scale


# fmt: off
@triton.jit
def values_kernel(
    query, positive, table, row_id, negative_id, bar, sums,
    num_rows, num_negatives, width, split_size,
    scale, warm, cool,
    has_ids: tl.constexpr, consistent: tl.constexpr,
    upcast: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, block_d: tl.constexpr,
):
    # fmt: on
    """Sums over one split of the table for R rows, written to ``sums`` (8, splits, N).

    In order: largest query score; sum of e^l; of e^b; of e^b delta; largest positive score; sum of e^a; of e^a delta;
    entries not below the row's ``bar`` (N,).
    """
    rows = tl.program_id(0) * block_n + tl.arange(0, block_n)
    begin = tl.program_id(1) * split_size
    end = tl.minimum(begin + split_size, num_negatives)
    q = _load_rows(query, rows, num_rows, width, upcast, block_d)
    p = _load_rows(positive, rows, num_rows, width, upcast, block_d)
    own_bar = tl.load(bar + rows, mask=rows < num_rows, other=0.0)
    largest_q = tl.full((block_n,), FAR_BELOW, tl.float32)
    largest_p = tl.full((block_n,), FAR_BELOW, tl.float32)
    sum_l = tl.zeros((block_n,), tl.float32)
    sum_q = tl.zeros((block_n,), tl.float32)
    sum_q_delta = tl.zeros((block_n,), tl.float32)
    sum_p = tl.zeros((block_n,), tl.float32)
    sum_p_delta = tl.zeros((block_n,), tl.float32)
    above = tl.zeros((block_n,), tl.float32)
    for start in range(begin, end, block_k):
        columns = start + tl.arange(0, block_k)
        n = _load_rows(table, columns, end, width, upcast, block_d)
        kept = _kept(row_id, negative_id, rows, columns, num_rows, end, has_ids)
        s = tl.where(kept, _scores(q, n, scale), float("-inf"))
        # "Not below", so that a NaN score never looks like a hit.
        above += tl.sum(tl.where(kept & (s < own_bar[:, None]), 0.0, kept.to(tl.float32)), 1)
        risen = tl.maximum(largest_q, tl.max(s, 1))
        sum_l = sum_l * tl.exp((largest_q - risen) * warm)
        sum_l += tl.sum(tl.exp((s - risen[:, None]) * warm), 1)
        if consistent:
            t = tl.where(kept, _scores(p, n, scale), float("-inf"))
            delta = tl.where(kept, (s - t) * cool, 0.0)
            shrink = tl.exp((largest_q - risen) * cool)
            e_q = tl.exp((s - risen[:, None]) * cool)
            sum_q = sum_q * shrink + tl.sum(e_q, 1)
            sum_q_delta = sum_q_delta * shrink + tl.sum(e_q * delta, 1)
            risen_p = tl.maximum(largest_p, tl.max(t, 1))
            shrink = tl.exp((largest_p - risen_p) * cool)
            e_p = tl.exp((t - risen_p[:, None]) * cool)
            sum_p = sum_p * shrink + tl.sum(e_p, 1)
            sum_p_delta = sum_p_delta * shrink + tl.sum(e_p * delta, 1)
            largest_p = risen_p
        largest_q = risen
    stride = tl.num_programs(1) * num_rows
    out = sums + tl.program_id(1) * num_rows + rows
    inside = rows < num_rows
    tl.store(out, largest_q, mask=inside)
    tl.store(out + stride, sum_l, mask=inside)
    tl.store(out + 2 * stride, sum_q, mask=inside)
    tl.store(out + 3 * stride, sum_q_delta, mask=inside)
    tl.store(out + 4 * stride, largest_p, mask=inside)
    tl.store(out + 5 * stride, sum_p, mask=inside)
    tl.store(out + 6 * stride, sum_p_delta, mask=inside)
    tl.store(out + 7 * stride, above, mask=inside)


# fmt: off
@triton.jit
def _weights(
    q, p, n, kept, facts,
    rows, num_rows,
    scale, warm, cool, alpha, forward, reverse,
    instance: tl.constexpr, consistent: tl.constexpr, through_p: tl.constexpr,
):
    # fmt: on
    """(R, B) twice: gradient of the weighted total with respect to the products q.n and p.n.

    ``facts`` (6, N) holds for each row ln of InfoNCE's normaliser, ln Z_Q, ln Z_P, E_Q[delta], E_P[delta], its weight.
    """
    inside = rows < num_rows
    weight = tl.load(facts + 5 * num_rows + rows, mask=inside, other=0.0)[:, None]
    s = _scores(q, n, scale)
    to_q = tl.zeros_like(s)
    to_p = tl.zeros_like(s)
    if instance:
        normaliser = tl.load(facts + rows, mask=inside, other=0.0)[:, None]
        to_q += tl.exp(s * warm - normaliser) * warm
    if consistent:
        log_q = tl.load(facts + num_rows + rows, mask=inside, other=0.0)[:, None]
        log_p = tl.load(facts + 2 * num_rows + rows, mask=inside, other=0.0)[:, None]
        mean_q = tl.load(facts + 3 * num_rows + rows, mask=inside, other=0.0)[:, None]
        b = s * cool
        a = _scores(p, n, scale) * cool
        of_q = tl.exp(b - log_q)
        of_p = tl.exp(a - log_p)
        delta = b - a
        share = alpha * cool
        to_q += share * (of_q * (forward + reverse * (delta - mean_q)) - forward * of_p)
        if through_p:
            mean_p = tl.load(facts + 4 * num_rows + rows, mask=inside, other=0.0)[:, None]
            to_p += share * (of_p * (reverse - forward * (delta - mean_p)) - reverse * of_q)
    # By selection, not by a product: what is left out may have overflowed.
    to_q = tl.where(kept, to_q * (weight * scale), 0.0)
    to_p = tl.where(kept, to_p * (weight * scale), 0.0)
    return to_q, to_p


# fmt: off
@triton.jit
def row_gradients_kernel(
    query, positive, table, row_id, negative_id, facts, grad_query, grad_positive,
    num_rows, num_negatives, width, split_size,
    scale, warm, cool, alpha, forward, reverse,
    has_ids: tl.constexpr, instance: tl.constexpr, consistent: tl.constexpr, through_p: tl.constexpr,
    upcast: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, block_d: tl.constexpr,
):
    # fmt: on
    """What one split of the table gives back to R queries and positives, written to (splits, N, D) each."""
    rows = tl.program_id(0) * block_n + tl.arange(0, block_n)
    begin = tl.program_id(1) * split_size
    end = tl.minimum(begin + split_size, num_negatives)
    q = _load_rows(query, rows, num_rows, width, upcast, block_d)
    p = _load_rows(positive, rows, num_rows, width, upcast, block_d)
    back_q = tl.zeros((block_n, block_d), tl.float32)
    back_p = tl.zeros((block_n, block_d), tl.float32)
    for start in range(begin, end, block_k):
        columns = start + tl.arange(0, block_k)
        n = _load_rows(table, columns, end, width, upcast, block_d)
        kept = _kept(row_id, negative_id, rows, columns, num_rows, end, has_ids)
        to_q, to_p = _weights(
            q,
            p,
            n,
            kept,
            facts,
            rows,
            num_rows,
            scale,
            warm,
            cool,
            alpha,
            forward,
            reverse,
            instance,
            consistent,
            through_p,
        )
        back_q += tl.dot(to_q.to(n.dtype), n, input_precision="ieee")
        if through_p:
            back_p += tl.dot(to_p.to(n.dtype), n, input_precision="ieee")
    features = tl.arange(0, block_d)
    place = (tl.program_id(1) * num_rows + rows)[:, None].to(tl.int64) * width + features[None, :]
    inside = (rows[:, None] < num_rows) & (features[None, :] < width)
    tl.store(grad_query + place, back_q, mask=inside)
    if through_p:
        tl.store(grad_positive + place, back_p, mask=inside)


# fmt: off
@triton.jit
def table_gradient_kernel(
    query, positive, table, row_id, negative_id, facts, grad_table,
    num_rows, num_negatives, width,
    scale, warm, cool, alpha, forward, reverse,
    has_ids: tl.constexpr, instance: tl.constexpr, consistent: tl.constexpr, through_p: tl.constexpr,
    upcast: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, block_d: tl.constexpr,
):
    # fmt: on
    """What all rows give back to B negatives, written to (K, D)."""
    columns = tl.program_id(0) * block_k + tl.arange(0, block_k)
    n = _load_rows(table, columns, num_negatives, width, upcast, block_d)
    back = tl.zeros((block_k, block_d), tl.float32)
    for start in range(0, num_rows, block_n):
        rows = start + tl.arange(0, block_n)
        q = _load_rows(query, rows, num_rows, width, upcast, block_d)
        p = _load_rows(positive, rows, num_rows, width, upcast, block_d)
        kept = _kept(row_id, negative_id, rows, columns, num_rows, num_negatives, has_ids)
        to_q, to_p = _weights(
            q,
            p,
            n,
            kept,
            facts,
            rows,
            num_rows,
            scale,
            warm,
            cool,
            alpha,
            forward,
            reverse,
            instance,
            consistent,
            through_p,
        )
        back += tl.dot(tl.trans(to_q).to(q.dtype), q, input_precision="ieee")
        if through_p:
            back += tl.dot(tl.trans(to_p).to(p.dtype), p, input_precision="ieee")
    features = tl.arange(0, block_d)
    inside = (columns[:, None] < num_negatives) & (features[None, :] < width)
    tl.store(grad_table + columns[:, None].to(tl.int64) * width + features[None, :], back, mask=inside)
