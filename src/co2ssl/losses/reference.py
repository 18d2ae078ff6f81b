"""The textbook form of both terms: every matrix written out, nothing saved.

What the fast forms are compared with. Memory grows with N x K (and N x J x D with draws), so it is never
chosen on its own; ask for it with ``implementation="reference"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from co2ssl.losses.contrast import Clipped, Contrast, Cosine, Score
from co2ssl.losses.options import Direction, compute_dtype, kl_weights


def logits(contrast: Contrast, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores over the temperature: of the pairs (N, M), of the entries (N, K), and which entries count (N, K) bool."""
    with _full_precision(contrast):
        query, positive, entries = _operands(contrast)
        kept = kept_entries(contrast)
        require_negatives(kept)
        pair = apply_score(contrast.score, torch.einsum("nd,nmd->nm", query, positive))
        scores = apply_score(contrast.score, torch.einsum(entries.equation, query, entries.table))
        return pair / temperature, scores / temperature, kept


def instance_rows(contrast: Contrast, *, temperature: float, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """InfoNCE of each row, and how many negatives outrank its positives.

    Returns:
        (N,) loss, averaged over M positives and with the score's penalty added; (N, M) int64 counts.
    """
    with _full_precision(contrast):
        query, positive, entries = _operands(contrast)
        kept = kept_entries(contrast)  # (N, K)
        require_negatives(kept)
        pair_products = torch.einsum("nd,nmd->nm", query, positive)
        products = torch.einsum(entries.equation, query, entries.table)  # (N, K)
        pair = apply_score(contrast.score, pair_products) / temperature  # (N, M)
        logits = apply_score(contrast.score, products) / temperature
        logits = logits.masked_fill(~kept, -torch.inf)
        every = torch.cat([pair[:, :, None], logits[:, None].expand(-1, pair.shape[1], -1)], dim=2)  # (N, M, 1 + K)
        normaliser = every.logsumexp(dim=2)  # (N, M)
        numerator = pair
        others = kept
        if contrast.also_positive is not None:
            joined = logits.masked_fill(~contrast.also_positive, -torch.inf).logsumexp(dim=1, keepdim=True)
            numerator = torch.logaddexp(pair, joined)
            others = kept & ~contrast.also_positive
        loss = normaliser - numerator
        if label_smoothing > 0:
            mean_logit = (pair + logits.masked_fill(~kept, 0).sum(1, keepdim=True)) / (1 + kept.sum(1, keepdim=True))
            loss = loss + label_smoothing * (numerator - mean_logit)
        rows = loss.mean(dim=1) + score_penalty(contrast.score, pair_products, products, kept)
        # Counted as "not at or below", so that a NaN score never looks like a hit.
        above = (others[:, None] & ~(logits[:, None] <= pair[:, :, None])).sum(dim=2)
        return rows, above


def consistency_rows(
    contrast: Contrast, *, temperature: float, direction: Direction = "symmetric", detach_positive: bool = False
) -> Tensor:
    """Divergence of P and Q of each row, summed over its negatives, averaged over its positives.

    Returns:
        (N,).
    """
    with _full_precision(contrast):
        query, positive, entries = _operands(contrast)
        kept = kept_entries(contrast)
        if contrast.also_positive is not None:
            kept = kept & ~contrast.also_positive
        require_negatives(kept)
        log_q = _masked_log_softmax(
            apply_score(contrast.score, torch.einsum(entries.equation, query, entries.table)) / temperature, kept
        )[:, None]  # (N, 1, K)
        log_p = torch.stack(
            [
                _masked_log_softmax(
                    apply_score(contrast.score, torch.einsum(entries.equation, one, entries.table)) / temperature, kept
                )
                for one in positive.unbind(dim=1)
            ],
            dim=1,
        )  # (N, M, K)
        if detach_positive:
            log_p = log_p.detach()
        in_both = kept[:, None]
        forward = (log_p.exp() * (log_p - log_q)).masked_fill(~in_both, 0).sum(dim=2)
        reverse = (log_q.exp() * (log_q - log_p)).masked_fill(~in_both, 0).sum(dim=2)
        weight_forward, weight_reverse = kl_weights(direction)
        # A row without negatives has no distribution to agree on: NaN where raising would need the host to wait.
        missing = ~kept.any(dim=1)
        return (weight_forward * forward + weight_reverse * reverse).mean(dim=1).masked_fill(missing, torch.nan)


def apply_score(score: Score, products: Tensor) -> Tensor:
    """Inner products of any shape to scores of the same shape."""
    if isinstance(score, Cosine):
        return products
    scaled = products * score.scale
    if isinstance(score, Clipped):
        return score.limit * torch.tanh(scaled / score.limit)
    return scaled


def score_penalty(score: Score, pair_products: Tensor, products: Tensor, kept: Tensor) -> Tensor:
    """AMDIM's penalty of each row, (N,): ``penalty`` times the mean of s squared over its scored pairs."""
    if not isinstance(score, Clipped):
        return torch.zeros_like(products[:, 0])
    squares = (products * score.scale).square().masked_fill(~kept, 0).sum(dim=1)
    pairs = (pair_products * score.scale).square()
    return score.penalty * (squares + pairs.sum(dim=1)) / (kept.sum(dim=1) + pairs.shape[1])


def kept_entries(contrast: Contrast) -> Tensor:
    """(N, K) bool: entries a row is compared with, by ids and ``valid``."""
    kept = torch.ones(contrast.num_rows, contrast.num_negatives, dtype=torch.bool, device=contrast.query.device)
    if contrast.row_id is not None and contrast.negative_id is not None:
        ids = (
            contrast.negative_id[None]
            if contrast.negative_index is None
            else contrast.negative_id[contrast.negative_index]
        )
        kept = ids != contrast.row_id[:, None]
    if contrast.valid is not None:
        kept = kept & contrast.valid
    return kept


def require_negatives(kept: Tensor) -> None:
    """Raise ValueError for a row without a negative. On an accelerator the row's loss is NaN instead."""
    if kept.shape[1] == 0:
        raise ValueError("there are no negatives: K (or J) is 0")
    if kept.device.type == "cpu" and not torch.compiler.is_compiling():
        empty = (~kept.any(dim=1)).nonzero()[:, 0]
        if empty.numel():
            raise ValueError(
                f"{empty.numel()} of {kept.shape[0]} rows have no negative (first: row {int(empty[0])}): "
                "ids, valid or also_positive leave none; a larger batch or memory is needed"
            )


@dataclass(frozen=True)
class _Entries:
    table: Tensor
    equation: str


def _operands(contrast: Contrast) -> tuple[Tensor, Tensor, _Entries]:
    dtype = compute_dtype(contrast.query, contrast.positive, contrast.negatives)
    query = contrast.query.to(dtype)
    positive = contrast.positive.to(dtype)
    if positive.dim() == 2:
        positive = positive[:, None]
    table = contrast.negatives.to(dtype)
    if contrast.negative_index is not None:
        table = table[contrast.negative_index]
    return query, positive, _Entries(table, "nd,kd->nk" if table.dim() == 2 else "nd,nkd->nk")


def _full_precision(contrast: Contrast) -> torch.autocast:
    return torch.autocast(contrast.query.device.type, enabled=False)


def _masked_log_softmax(logits: Tensor, kept: Tensor) -> Tensor:
    """Log-softmax over the kept entries; 0 elsewhere, where it is never read."""
    return logits.masked_fill(~kept, -torch.inf).log_softmax(dim=1).masked_fill(~kept, 0)
