"""``Contrast``: what a contrastive method returns in place of a loss.

One comparison holds the query, what it is matched with, and what it is told apart from. Both terms of
CO2 read the same object, so there is one memory and one snapshot of it: the instance term (InfoNCE) and
the consistency term see the same negatives by construction.

Letters used in every shape of this package: N rows, K negatives in a table, J drawn negatives of a row,
M positives of a row, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cosine:
    """Inner product of unit vectors: the cosine, in [-1, 1]."""


@dataclass(frozen=True)
class Dot:
    """Inner product times ``scale``, for vectors of any length (CPC v2: 0.1 on the prediction)."""

    scale: float = 1.0


@dataclass(frozen=True)
class Clipped:
    """AMDIM's score: with s = inner product times ``scale``, ``limit * tanh(s / limit)``.

    ``penalty`` times the mean of s squared over all scored pairs joins the objective (AMDIM: scale
    1/sqrt(D), limit 20, penalty 0.05).
    """

    scale: float = 1.0
    limit: float = 20.0
    penalty: float = 0.05


Score: TypeAlias = Cosine | Dot | Clipped

_COSINE = Cosine()


def _cosine() -> Score:
    # A function that hands out one object: the class itself as the factory is beyond torch.compile.
    return _COSINE


@dataclass(frozen=True)
class Noise:
    """What noise-contrastive estimation knows of the bank it draws from.

    Attributes:
        num_images: the noise is uniform over this many images. InsDisc's n.
        log_normaliser: ln Z, a constant estimated on the first batch: a number or a scalar tensor.
    """

    num_images: int
    log_normaliser: Tensor | float

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {self.num_images}")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison of N queries with their positives, against negatives.

    Attributes:
        query: (N, D), carries gradient. The paper's q.
        positive: (N, D), or (N, M, D) for M comparisons against the same negatives, averaged. What the
            query is matched with, and what P is made from. The paper's p. Detached where the method says so.
        negatives: (K, D), one table for all rows (a queue, the batch, a whole bank), or (N, K, D), a set of
            its own for each row. The paper's n_1 .. n_K.
        negative_index: (N, J) int64, each row's draws from the (K, D) table; they are its only negatives.
        row_id: (N,) int64 and
        negative_id: (K,) int64: an entry whose id equals the row's is not that row's negative (itself, its
            other crop, its own image). Given together or not at all.
        valid: (N, K) bool, or (N, J) beside ``negative_index``: False takes an entry out. Only where ids
            cannot say it.
        also_positive: (N, K) or (N, J) bool: entries that join the numerator of the instance loss (Local
            Aggregation). They are in neither P nor Q.
        partner: (N,) int64: ``positive[i]`` is ``query[partner[i]]``, itself or detached, and the two rows have the
            same negatives, of one table (SimCLR), so that P of a row is Q of its partner. "blocked" then makes no
            product for P and passes what P gives back to the query directly; the "triton" kernels, and "reference",
            score the positive all the same. An involution without fixed points. Where the positive is the query
            with its halves exchanged, the same is found without being told (on the CPU).
        score: how two vectors are compared.
        noise: given where the instance loss may be NCE (InsDisc, CMC, PIRL).
        weight: share of this comparison in the objective (PIRL 0.5 and 0.5, CMC 1 and 1).

    Raises:
        ValueError: shapes that do not fit each other, named with what was expected.
    """

    query: Tensor
    positive: Tensor
    negatives: Tensor
    negative_index: Tensor | None = None
    row_id: Tensor | None = None
    negative_id: Tensor | None = None
    valid: Tensor | None = None
    also_positive: Tensor | None = None
    partner: Tensor | None = None
    score: Score = field(default_factory=_cosine)
    noise: Noise | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        rows, width = _expect_matrix(self.query, "query (N, D)")
        if self.positive.dim() not in (2, 3) or self.positive.shape[0] != rows or self.positive.shape[-1] != width:
            raise ValueError(f"positive must be ({rows}, {width}) or ({rows}, M, {width}), got {_shape(self.positive)}")
        if self.negatives.dim() not in (2, 3) or self.negatives.shape[-1] != width:
            raise ValueError(f"negatives must be (K, {width}) or ({rows}, K, {width}), got {_shape(self.negatives)}")
        if self.negatives.dim() == 3 and self.negatives.shape[0] != rows:
            raise ValueError(
                f"negatives of their own for each row must be ({rows}, K, {width}), got {_shape(self.negatives)}"
            )
        self._check_index(rows)
        self._check_ids(rows)
        self._check_partner(rows)
        for name, mask in (("valid", self.valid), ("also_positive", self.also_positive)):
            if mask is None:
                continue
            if mask.dtype != torch.bool or tuple(mask.shape) != (rows, self.num_negatives):
                raise ValueError(
                    f"{name} must be a bool tensor ({rows}, {self.num_negatives}), got {mask.dtype} {_shape(mask)}"
                )

    @property
    def num_rows(self) -> int:
        """N."""
        return self.query.shape[0]

    @property
    def num_negatives(self) -> int:
        """Entries each row is compared with before any is left out: J with draws, else K."""
        if self.negative_index is not None:
            return self.negative_index.shape[1]
        return self.negatives.shape[-2]

    def _check_index(self, rows: int) -> None:
        if self.negative_index is None:
            return
        if self.negatives.dim() != 2:
            raise ValueError("negative_index draws from one table: negatives must then be (K, D)")
        index = self.negative_index
        if index.dtype != torch.int64 or index.dim() != 2 or index.shape[0] != rows:
            raise ValueError(f"negative_index must be int64 ({rows}, J), got {index.dtype} {_shape(index)}")

    def _check_ids(self, rows: int) -> None:
        if (self.row_id is None) != (self.negative_id is None):
            raise ValueError("row_id and negative_id are given together or not at all")
        if self.row_id is None or self.negative_id is None:
            return
        if self.negatives.dim() != 2:
            raise ValueError("negative_id names the rows of one table: negatives must then be (K, D)")
        if tuple(self.row_id.shape) != (rows,):
            raise ValueError(f"row_id must be ({rows},), got {_shape(self.row_id)}")
        if tuple(self.negative_id.shape) != (self.negatives.shape[0],):
            raise ValueError(f"negative_id must be ({self.negatives.shape[0]},), got {_shape(self.negative_id)}")

    def _check_partner(self, rows: int) -> None:
        if self.partner is None:
            return
        if self.positive.dim() != 2 or tuple(self.partner.shape) != (rows,):
            raise ValueError(
                f"partner must be ({rows},), beside one positive a row, got {_shape(self.partner)} "
                f"and positive {_shape(self.positive)}"
            )
        if self.negatives.dim() != 2:
            raise ValueError(
                "partners have the same negatives, of one table: beside partner, negatives must be (K, D), "
                f"got {_shape(self.negatives)}; leave partner out where each row has a set of its own"
            )


def _expect_matrix(tensor: Tensor, what: str) -> tuple[int, int]:
    if tensor.dim() != 2:
        raise ValueError(f"{what} must have two dimensions, got {_shape(tensor)}")
    return tensor.shape[0], tensor.shape[1]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
