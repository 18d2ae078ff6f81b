"""Both terms and their gradients for a block of rows whose scores are all at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses.scores import outranked_below
from co2ssl.losses.settings import Settings


@dataclass
class InstanceBlock:
    """Instance loss of R rows, and its gradient with respect to scores (before the temperature)."""

    rows: Tensor  # (R,)
    above: Tensor  # (R, M)
    to_entries: Tensor  # (R, K)
    to_pairs: Tensor  # (R, M)


def instance_block(
    pairs: Tensor,
    scores: Tensor,
    kept: Tensor | None,
    also: Tensor | None,
    settings: Settings,
    log_normaliser: Tensor | None,
) -> InstanceBlock:
    """InfoNCE or NCE of scored rows.

    Args:
        pairs: (R, M) scores of the pairs.
        scores: (R, K) scores of the entries.
        kept: (R, K) bool, None where every entry counts.
        also: (R, K) bool, entries that join the numerator.
        settings: of the loss.
        log_normaliser: scalar, for NCE.
    """
    # "Not below", so that a NaN score never looks like a hit.
    outranks = ~(scores[:, None] < outranked_below(pairs)[:, :, None])
    if kept is not None:
        outranks &= kept[:, None]
    if also is not None:
        outranks &= ~also[:, None]
    above = outranks.sum(dim=2)
    if settings.noise_images:
        assert log_normaliser is not None
        block = _nce(pairs, scores, kept, settings, log_normaliser)
    else:
        block = _info_nce(pairs, scores, kept, also, settings)
    block.above = above
    return block


def _info_nce(
    pairs: Tensor, scores: Tensor, kept: Tensor | None, also: Tensor | None, settings: Settings
) -> InstanceBlock:
    """-log (numerator / normaliser), with g = dL/dlogit found beside it."""
    num_pairs = pairs.shape[1]
    pair = pairs / settings.temperature
    logits = scores / settings.temperature
    if kept is not None:
        logits.masked_fill_(~kept, -torch.inf)
    largest = logits.amax(dim=1, keepdim=True)
    among = None if also is None else logits.masked_fill(~also, -torch.inf)
    exponentials = logits.sub_(largest).exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    normaliser = torch.logaddexp(pair, largest + total.log())  # (R, M)
    # softmax over the 1 + K classes of each positive, averaged over positives
    shrink = (largest - normaliser).exp().mean(dim=1, keepdim=True)
    to_pairs = (pair - normaliser).exp()
    to_entries = exponentials.mul_(shrink)
    if among is None:
        numerator = pair
        to_pairs = to_pairs - 1
    else:
        # Their own softmax: far below the largest logit their exponentials would vanish.
        joined = among.logsumexp(dim=1, keepdim=True)
        numerator = torch.logaddexp(pair, joined)
        to_pairs = to_pairs - (pair - numerator).exp()
        share = (joined - numerator).exp().mean(dim=1, keepdim=True)
        to_entries -= share * (among - joined).exp().masked_fill(among.isneginf(), 0)
    loss = normaliser - numerator
    if settings.label_smoothing:
        loss, to_pairs, to_entries = _smooth(loss, to_pairs, to_entries, pair, scores, kept, settings)
    scale = 1 / settings.temperature
    return InstanceBlock(loss.mean(dim=1), pair, to_entries.mul_(scale), to_pairs * (scale / num_pairs))


def _smooth(
    loss: Tensor,
    to_pairs: Tensor,
    to_entries: Tensor,
    pair: Tensor,
    scores: Tensor,
    kept: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move ``label_smoothing`` of the target from the positive to all 1 + K classes alike."""
    share = settings.label_smoothing
    counted = torch.ones_like(scores) if kept is None else kept.to(scores.dtype)
    classes = 1 + counted.sum(dim=1, keepdim=True)
    entries = (scores * counted).sum(dim=1, keepdim=True) / settings.temperature
    loss = loss + share * (pair - (pair + entries) / classes)
    return loss, to_pairs + share * (1 - 1 / classes), to_entries - share * counted / classes


def _nce(
    pairs: Tensor, scores: Tensor, kept: Tensor | None, settings: Settings, log_normaliser: Tensor
) -> InstanceBlock:
    """A binary decision an entry: data or noise."""
    num_pairs = pairs.shape[1]
    if kept is None:
        drawn = torch.full_like(scores[:, :1], scores.shape[1])
    else:
        drawn = kept.sum(dim=1, keepdim=True).to(scores.dtype)
        drawn = drawn.masked_fill(drawn == 0, torch.nan)
    log_noise = drawn.log() - math.log(settings.noise_images)
    pair = log_noise + log_normaliser - pairs / settings.temperature
    entries = scores / settings.temperature - (log_normaliser + log_noise)
    losses = F.softplus(entries)
    to_entries = entries.sigmoid()
    if kept is not None:
        losses.masked_fill_(~kept, 0)
        to_entries.masked_fill_(~kept, 0)
    rows = F.softplus(pair).mean(dim=1) + losses.sum(dim=1)
    scale = 1 / settings.temperature
    return InstanceBlock(rows, pair, to_entries.mul_(scale), pair.sigmoid() * (-scale / num_pairs))


@dataclass
class ConsistencyBlock:
    """Consistency of R rows, and its gradient with respect to the scores of the query and of the positives."""

    rows: Tensor  # (R,)
    to_query: Tensor  # (R, K)
    to_positive: Tensor | None  # (R, M, K)


def consistency_block(
    query_scores: Tensor,
    positive_scores: Tensor,
    kept: Tensor | None,
    settings: Settings,
    *,
    needs_positive: bool,
) -> ConsistencyBlock:
    """Divergence of Q = softmax(query_scores / t) and P = softmax(positive_scores / t) over the kept entries.

    With b and a the two logits and delta = b - a, the log-normalisers cancel in the symmetric divergence:
    1/2 KL(P||Q) + 1/2 KL(Q||P) = 1/2 (E_Q[delta] - E_P[delta]).

    Args:
        query_scores: (R, K).
        positive_scores: (R, M, K).
        kept: (R, K) bool, None where every entry counts.
        settings: of the loss.
        needs_positive: whether the gradient that goes through P is asked for.
    """
    forward, reverse = settings.forward_weight, settings.reverse_weight
    scale = 1 / settings.consistency_temperature
    in_query = query_scores[:, None] * scale  # (R, 1, K)
    in_positive = positive_scores * scale
    delta = in_query - in_positive  # (R, M, K)
    if kept is not None:
        left_out = ~kept[:, None]
        in_query.masked_fill_(left_out, -torch.inf)
        in_positive.masked_fill_(left_out, -torch.inf)
        delta.masked_fill_(left_out, 0)
    of_query = in_query.softmax(dim=2)  # Q
    of_positive = in_positive.softmax(dim=2)  # P
    mean_query = (of_query * delta).sum(dim=2, keepdim=True)
    mean_positive = (of_positive * delta).sum(dim=2, keepdim=True)
    rows = reverse * mean_query - forward * mean_positive  # (R, M, 1)
    if forward != reverse:
        gap = in_query.logsumexp(dim=2, keepdim=True) - in_positive.logsumexp(dim=2, keepdim=True)
        rows = rows + (forward - reverse) * gap
    share = scale / positive_scores.shape[1]
    to_positive = None
    if needs_positive:
        to_positive = (delta - mean_positive).mul_(-forward).add_(reverse).mul_(of_positive)
        to_positive = to_positive.sub_(of_query * reverse).mul_(share)
    to_query = delta.sub_(mean_query).mul_(reverse).add_(forward).mul_(of_query)
    to_query = to_query.sub_(of_positive.mul_(forward)).mul_(share).sum(dim=1)
    return ConsistencyBlock(rows.mean(dim=1)[:, 0], to_query, to_positive)
