"""Losses of the pretext methods: known answers in place of negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses.prediction import Prediction, Triplet


@dataclass(frozen=True)
class PretextRows:
    """Per-row loss (N,), and whether each row's answer was right at the first and among the first five, (N,) bool.

    A tie is a miss.
    """

    loss: Tensor
    top1: Tensor
    top5: Tensor


def prediction_rows(prediction: Prediction) -> PretextRows:
    """Cross-entropy of each row, in float32 or wider.

    Raises:
        ValueError: shapes that do not fit.
    """
    logits, target = prediction.logits, prediction.target
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (N, classes) and target (N,), got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide, target, reduction="none")
    with torch.no_grad():
        own = wide.gather(1, target[:, None])
        # "Not below", so that neither a tie nor a NaN looks like a hit.
        above = (~(wide.scatter(1, target[:, None], -torch.inf) < own)).sum(dim=1)
    return PretextRows(loss=loss, top1=above < 1, top5=above < 5)


def triplet_rows(triplet: Triplet) -> PretextRows:
    """Semi-hard triplet loss of each row, averaged over the row's positives.

    For an anchor and one of its positives, the negative is the nearest one farther away than the positive; where
    there is none, the farthest negative. The loss is max(0, margin + d_positive - d_negative), d the squared
    Euclidean distance. Schroff et al., *FaceNet*, CVPR 2015, Section 3.2.

    A row counts as right when its nearest other row (one of its five nearest) has its identity; of rows equally near
    the one of another identity counts as nearer.

    Raises:
        ValueError: a row without a positive or without a negative, or shapes that do not fit.
    """
    embeddings, identity = triplet.embeddings, triplet.identity
    if embeddings.dim() != 2 or identity.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings must be (N, D) and identity (N,), got {tuple(embeddings.shape)} and {tuple(identity.shape)}"
        )
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    squares = wide.square().sum(dim=1)
    distance = (squares[:, None] + squares[None] - 2 * wide @ wide.T).clamp_min(0)  # (N, N)
    same = identity[:, None] == identity[None]
    itself = torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    anchor, positive = (same & ~itself).nonzero(as_tuple=True)  # one entry a pair
    pairs_of_row = torch.bincount(anchor, minlength=len(identity))
    if bool((pairs_of_row == 0).any()) or bool(same.all(dim=1).any()):
        raise ValueError("every row of a Triplet needs another row of its identity and one of a different identity")
    to_positive = distance[anchor, positive][:, None]  # (pairs, 1)
    to_negative = distance[anchor].masked_fill(same[anchor], torch.inf)  # (pairs, N)
    beyond = to_negative.masked_fill(to_negative <= to_positive, torch.inf).amin(dim=1)
    farthest = distance[anchor].masked_fill(same[anchor], -torch.inf).amax(dim=1)
    chosen = torch.where(beyond.isinf(), farthest, beyond)
    hinge = (triplet.margin + to_positive[:, 0] - chosen).clamp_min(0)
    loss = torch.zeros_like(squares).index_add(0, anchor, hinge / pairs_of_row[anchor])
    with torch.no_grad():
        others = distance.masked_fill(itself, torch.inf)
        nearest_same = others.masked_fill(~same, torch.inf).amin(dim=1, keepdim=True)
        closer = (~(others.masked_fill(same, torch.inf) > nearest_same)).sum(dim=1)
    return PretextRows(loss=loss, top1=closer < 1, top5=closer < 5)
