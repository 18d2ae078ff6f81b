"""What a pretext method returns in place of comparisons: a task with known answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A classification (Rotation, Jigsaw, Relative Position): cross-entropy, mean over rows.

    Attributes:
        logits: (N, classes), carries gradient.
        target: (N,) int64.
        weight: share in the objective.
    """

    logits: Tensor
    target: Tensor
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """Embeddings with identities (Exemplar): semi-hard triplet loss.

    Attributes:
        embeddings: (N, D), carries gradient.
        identity: (N,) int64: rows of equal identity are each other's positives.
        margin: in squared Euclidean distance.
        weight: share in the objective.
    """

    embeddings: Tensor
    identity: Tensor
    margin: float = 0.5
    weight: float = 1.0
