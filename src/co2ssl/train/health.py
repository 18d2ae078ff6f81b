"""Two numbers that tell collapse from learning without labels, and the words for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Ours. Spread 0.2 is an average cosine of 0.96 between different images; a healthy run is above 0.8 within an epoch.
SPREAD_FLOOR = 0.2
# Ours. Share of the directions the embeddings could use.
RANK_FLOOR = 0.05


def spread(embeddings: Tensor) -> float:
    """How far the embeddings of different images lie apart: 1 is uniform on the sphere, 0 is collapsed.

    The standard deviation of each dimension over the rows, averaged and multiplied by sqrt(D), as in SimSiam
    (Chen and He, 2021, Figure 2), where unit vectors without a common direction give 1/sqrt(D).

    Args:
        embeddings: (N, D), of any length; they are normalised here.

    Raises:
        ValueError: fewer than two rows.
    """
    unit = _unit_rows(embeddings)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(embeddings.shape[1])


def effective_rank(embeddings: Tensor) -> float:
    """How many directions the embeddings use: exp of the entropy of their singular values, normalised to sum 1.

    Roy and Vetterli, *The effective rank*, 2007; RankMe (Garrido et al., 2023, Equation 1). From 1, all on one
    line, to min(N, D), all directions alike.

    Args:
        embeddings: (N, D), of any length; they are normalised here.

    Raises:
        ValueError: fewer than two rows.
    """
    values = torch.linalg.svdvals(_unit_rows(embeddings))
    share = values / values.sum()
    return math.exp(float(torch.special.entr(share).sum()))


def collapse_warning(spread: float, rank: float, dim: int) -> str | None:
    """What a person should know, or None while all is well.

    Args:
        spread: of :func:`spread`.
        rank: of :func:`effective_rank`.
        dim: the highest rank possible: the smaller of rows and embedding width.
    """
    if spread < SPREAD_FLOOR:
        return (
            f"the embeddings of different images are almost the same (spread {spread:.2f}; 1 is uniform, 0 collapsed): "
            "try a lower learning rate, or more negatives"
        )
    if rank < max(2.0, RANK_FLOOR * dim):
        return (
            f"the embeddings use {rank:.1f} of {dim} directions: they may be collapsing; "
            "try a lower learning rate, or more negatives"
        )
    return None


def embedding_health(embeddings: Tensor) -> dict[str, float | str]:
    """What a probe reports of embeddings (N, D): ``spread``, ``effective_rank`` and, where they are bad, ``warning``.

    Raises:
        ValueError: fewer than two rows.
    """
    apart, rank = spread(embeddings), effective_rank(embeddings)
    warning = collapse_warning(apart, rank, min(embeddings.shape))
    measured: dict[str, float | str] = {"spread": apart, "effective_rank": rank}
    return measured if warning is None else {**measured, "warning": warning}


def _unit_rows(embeddings: Tensor) -> Tensor:
    """The rows with unit length, in float64 (which not every device has, so on the CPU)."""
    if embeddings.dim() != 2 or embeddings.shape[0] < 2:
        raise ValueError(f"embeddings must be (N, D) with two rows or more, got {tuple(embeddings.shape)}")
    return normalize(embeddings.detach().cpu().double(), dim=1)
