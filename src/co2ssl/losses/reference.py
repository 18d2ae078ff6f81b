"""The textbook form of both terms: every matrix written out, nothing saved.

What the fast forms are compared with. Memory grows with N x K (and N x J x D with draws), so it is never
chosen on its own; ask for it with ``implementation="reference"``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses.contrast import Clipped, Contrast, Cosine, Score
from co2ssl.losses.options import NO_NEGATIVE, compute_dtype
from co2ssl.losses.scores import outranked_below
from co2ssl.losses.settings import Settings


def rows(contrast: Contrast, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Total (N,), instance (N,), consistency (N,) and above (N, M), with gradient; NaN where a term's weight is 0."""
    with torch.autocast(contrast.query.device.type, enabled=False):
        nothing = torch.full_like(contrast.query[:, 0], torch.nan, dtype=compute_dtype(*_vectors(contrast)))
        instance, consistency, above = nothing, nothing, nothing[:, None]
        total = torch.zeros_like(nothing)
        if settings.instance_weight:
            instance, above = _instance_rows(contrast, settings)
            total = total + instance
        if settings.consistency_weight:
            consistency = _consistency_rows(contrast, settings)
            total = total + settings.consistency_weight * consistency
        return total, instance, consistency, above


def _instance_rows(contrast: Contrast, settings: Settings) -> tuple[Tensor, Tensor]:
    """InfoNCE (or NCE) of each row, and how many negatives each of its positives does not outrank."""
    kept = kept_entries(contrast)  # (N, K)
    require_negatives(kept)
    query, positive, _ = (vectors.to(compute_dtype(*_vectors(contrast))) for vectors in _vectors(contrast))
    pair_products = torch.einsum("nd,nmd->nm", query, positive if positive.dim() == 3 else positive[:, None])
    products = _products(contrast, query)  # (N, K)
    pair = apply_score(contrast.score, pair_products) / settings.temperature
    logits = apply_score(contrast.score, products) / settings.temperature
    if settings.noise_images:
        loss = _nce(contrast, pair, logits, kept)
    else:
        loss = _info_nce(contrast, pair, logits, kept, settings.label_smoothing)
    others = kept if contrast.also_positive is None else kept & ~contrast.also_positive
    # Counted as "not below", so that a NaN score never looks like a hit.
    above = (others[:, None] & ~(logits[:, None] < outranked_below(pair)[:, :, None])).sum(dim=2, dtype=pair.dtype)
    return loss + score_penalty(contrast.score, pair_products, products, kept), above


def _info_nce(contrast: Contrast, pair: Tensor, logits: Tensor, kept: Tensor, label_smoothing: float) -> Tensor:
    masked = logits.masked_fill(~kept, -torch.inf)
    every = torch.cat([pair[:, :, None], masked[:, None].expand(-1, pair.shape[1], -1)], dim=2)  # (N, M, 1 + K)
    numerator = pair
    if contrast.also_positive is not None:
        joined = masked.masked_fill(~contrast.also_positive, -torch.inf).logsumexp(dim=1, keepdim=True)
        numerator = torch.logaddexp(pair, joined)
    loss = every.logsumexp(dim=2) - numerator
    if label_smoothing:
        entries = logits.masked_fill(~kept, 0).sum(dim=1, keepdim=True)
        mean_logit = (pair + entries) / (1 + kept.sum(dim=1, keepdim=True))
        loss = loss + label_smoothing * (pair - mean_logit)
    return loss.mean(dim=1)


def _nce(contrast: Contrast, pair: Tensor, logits: Tensor, kept: Tensor) -> Tensor:
    """With x = P(i) and c = J / n: -log x/(x + c) = softplus(ln c - ln x), -log c/(x + c) = softplus(ln x - ln c)."""
    assert contrast.noise is not None
    drawn = kept.sum(dim=1, keepdim=True).to(pair.dtype)
    log_noise = drawn.log() - math.log(contrast.noise.num_images)
    log_normaliser = contrast.noise.log_normaliser
    of_pair = F.softplus(log_noise - (pair - log_normaliser)).mean(dim=1)
    of_noise = F.softplus(logits - log_normaliser - log_noise).masked_fill(~kept, 0).sum(dim=1)
    return of_pair + of_noise


def _consistency_rows(contrast: Contrast, settings: Settings) -> Tensor:
    """Divergence of P and Q of each row, summed over its negatives, averaged over its positives."""
    kept = kept_entries(contrast)
    if contrast.also_positive is not None:
        kept = kept & ~contrast.also_positive
    require_negatives(kept)
    query, positive, _ = (vectors.to(compute_dtype(*_vectors(contrast))) for vectors in _vectors(contrast))
    each = positive.unbind(dim=1) if positive.dim() == 3 else (positive,)

    def log_softmax(vectors: Tensor) -> Tensor:
        logits = apply_score(contrast.score, _products(contrast, vectors)) / settings.consistency_temperature
        # 0 where an entry is left out: never read, and no infinity to subtract from another.
        return logits.masked_fill(~kept, -torch.inf).log_softmax(dim=1).masked_fill(~kept, 0)

    log_q = log_softmax(query)[:, None]  # (N, 1, K)
    log_p = torch.stack([log_softmax(vectors) for vectors in each], dim=1)  # (N, M, K)
    if settings.detach_positive:
        log_p = log_p.detach()
    left_out = ~kept[:, None]
    forward = (log_p.exp() * (log_p - log_q)).masked_fill(left_out, 0).sum(dim=2)
    reverse = (log_q.exp() * (log_q - log_p)).masked_fill(left_out, 0).sum(dim=2)
    divergence = settings.forward_weight * forward + settings.reverse_weight * reverse
    return divergence.mean(dim=1).masked_fill(~kept.any(dim=1), torch.nan)


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
    """Raise ValueError for a row without a negative (on the CPU; its loss is NaN elsewhere)."""
    if kept.shape[1] == 0:
        raise ValueError("there are no negatives: K (or J) is 0")
    if kept.device.type == "cpu":
        empty = (~kept.any(dim=1)).nonzero()[:, 0]
        if empty.numel():
            raise ValueError(NO_NEGATIVE.format(row=int(empty[0])))


def _vectors(contrast: Contrast) -> tuple[Tensor, Tensor, Tensor]:
    return contrast.query, contrast.positive, contrast.negatives


def _products(contrast: Contrast, vectors: Tensor) -> Tensor:
    """(N, D) against each row's entries: (N, K)."""
    table = contrast.negatives.to(vectors.dtype)
    if contrast.negative_index is not None:
        table = table[contrast.negative_index]
    return torch.einsum("nd,kd->nk" if table.dim() == 2 else "nd,nkd->nk", vectors, table)
