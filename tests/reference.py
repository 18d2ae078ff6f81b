"""Slow, obvious implementations: explicit loops over rows, positives and entries, in float64.

They share nothing with the package but ``Contrast`` itself, and autograd differentiates them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from co2ssl.losses import Clipped, Contrast, Cosine


@dataclass
class LoopTerms:
    """Per-row values by explicit loops."""

    instance: Tensor  # (N,)
    consistency: Tensor  # (N,)
    above: Tensor  # (N, M)


def loop_terms(
    contrast: Contrast,
    *,
    temperature: float,
    consistency_temperature: float,
    direction: str = "symmetric",
    detach_positive: bool = False,
    label_smoothing: float = 0.0,
    nce: bool = False,
) -> LoopTerms:
    """Both terms of every row."""
    instance, consistency, above = [], [], []
    for row in range(contrast.num_rows):
        query = contrast.query[row].double()
        positives = contrast.positive[row].double()
        positives = positives[None] if positives.dim() == 1 else positives
        entries = entries_of(contrast, row)
        losses, divergences, counts = [], [], []
        for positive in positives:
            pair = score(contrast, query @ positive)
            scores = [score(contrast, query @ vector) for vector, _ in entries]
            if nce:
                losses.append(_nce(contrast, pair, scores, temperature))
            else:
                joined = [also for _, also in entries]
                losses.append(_info_nce(pair, scores, joined, temperature, label_smoothing))
            kept = [vector for vector, also in entries if not also]
            divergences.append(
                _divergence(contrast, query, positive, kept, consistency_temperature, direction, detach_positive)
            )
            counts.append(sum(int(score(contrast, query @ vector) >= pair) for vector in kept))
        instance.append(torch.stack(losses).mean() + _penalty(contrast, query, positives, entries))
        consistency.append(torch.stack(divergences).mean())
        above.append(counts)
    return LoopTerms(torch.stack(instance), torch.stack(consistency), torch.tensor(above))


def entries_of(contrast: Contrast, row: int) -> list[tuple[Tensor, bool]]:
    """A row's entries, one by one, each with whether it joins the numerator."""
    entries = []
    for place in range(contrast.num_negatives):
        in_table = place if contrast.negative_index is None else int(contrast.negative_index[row, place])
        ids = contrast.row_id, contrast.negative_id
        if ids[0] is not None and ids[1] is not None and int(ids[0][row]) == int(ids[1][in_table]):
            continue
        if contrast.valid is not None and not bool(contrast.valid[row, place]):
            continue
        own = contrast.negatives.dim() == 3
        vector = contrast.negatives[row, place] if own else contrast.negatives[in_table]
        also = contrast.also_positive is not None and bool(contrast.also_positive[row, place])
        entries.append((vector.double(), also))
    return entries


def score(contrast: Contrast, product: Tensor) -> Tensor:
    """An inner product to a score."""
    if isinstance(contrast.score, Cosine):
        return product
    if isinstance(contrast.score, Clipped):
        return contrast.score.limit * torch.tanh(product * contrast.score.scale / contrast.score.limit)
    return product * contrast.score.scale


def _info_nce(pair: Tensor, scores: list[Tensor], joined: list[bool], temperature: float, smoothing: float) -> Tensor:
    logits = torch.stack([pair, *scores]) / temperature
    log_shares = logits - logits.logsumexp(0)
    in_numerator = torch.tensor([True, *joined])
    loss = -log_shares[in_numerator].logsumexp(0)
    return (1 - smoothing) * loss - smoothing * log_shares.mean() if smoothing else loss


def _nce(contrast: Contrast, pair: Tensor, scores: list[Tensor], temperature: float) -> Tensor:
    assert contrast.noise is not None
    noise = len(scores) / contrast.noise.num_images
    normaliser = math.exp(float(contrast.noise.log_normaliser))
    share = (pair / temperature).exp() / normaliser
    loss = -(share / (share + noise)).log()
    for one in scores:
        share = (one / temperature).exp() / normaliser
        loss = loss - (noise / (share + noise)).log()
    return loss


def _divergence(
    contrast: Contrast,
    query: Tensor,
    positive: Tensor,
    kept: list[Tensor],
    temperature: float,
    direction: str,
    detach_positive: bool,
) -> Tensor:
    of_query = torch.stack([score(contrast, query @ vector) for vector in kept]) / temperature
    of_positive = torch.stack([score(contrast, positive @ vector) for vector in kept]) / temperature
    if detach_positive:
        of_positive = of_positive.detach()
    log_q = of_query - of_query.logsumexp(0)
    log_p = of_positive - of_positive.logsumexp(0)
    forward, reverse = query.new_zeros(()), query.new_zeros(())
    for place in range(len(kept)):
        forward = forward + log_p[place].exp() * (log_p[place] - log_q[place])
        reverse = reverse + log_q[place].exp() * (log_q[place] - log_p[place])
    return {"symmetric": (forward + reverse) / 2, "forward": forward, "reverse": reverse}[direction]


def _penalty(contrast: Contrast, query: Tensor, positives: Tensor, entries: list[tuple[Tensor, bool]]) -> Tensor:
    if not isinstance(contrast.score, Clipped):
        return query.new_zeros(())
    vectors = [*positives, *(vector for vector, _ in entries)]
    squares = [(query @ vector * contrast.score.scale).square() for vector in vectors]
    return contrast.score.penalty * torch.stack(squares).mean()


def loop_semi_hard_triplet(embeddings: Tensor, identity: Tensor, margin: float) -> Tensor:
    """(N,): mean over an anchor's positives of the semi-hard triplet loss."""
    rows = []
    for anchor in range(len(identity)):
        distance = [(embeddings[anchor] - other).square().sum() for other in embeddings]
        negatives = [distance[k] for k in range(len(identity)) if identity[k] != identity[anchor]]
        losses = []
        for positive in range(len(identity)):
            if positive == anchor or identity[positive] != identity[anchor]:
                continue
            beyond = [one for one in negatives if one > distance[positive]]
            chosen = torch.stack(beyond).min() if beyond else torch.stack(negatives).max()
            losses.append((margin + distance[positive] - chosen).clamp_min(0))
        rows.append(torch.stack(losses).mean())
    return torch.stack(rows)
