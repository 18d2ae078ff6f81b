"""What the fast forms of the loss take: plain numbers and tensors that a custom operator can carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from co2ssl.losses.contrast import Clipped, Contrast, Cosine
from co2ssl.losses.options import Direction, check_label_smoothing, compute_dtype, kl_weights


class Settings(NamedTuple):
    """Every scalar of the loss, as floats (flags are 0 or 1): a custom operator takes a list of floats."""

    temperature: float
    consistency_temperature: float = 1.0
    instance_weight: float = 1.0  # 0: the instance loss is not computed
    consistency_weight: float = 0.0  # 0: the consistency is not computed
    forward_weight: float = 0.5  # of KL(P||Q)
    reverse_weight: float = 0.5  # of KL(Q||P)
    detach_positive: float = 0.0
    label_smoothing: float = 0.0
    is_cosine: float = 1.0
    scale: float = 1.0
    limit: float = 0.0  # 0: not clipped
    penalty: float = 0.0
    noise_images: float = 0.0  # 0: InfoNCE, else NCE
    same_graph: float = 0.0  # partners: positive[i] is query[partner[i]], so what P passes back may go to the query

    @classmethod
    def of(
        cls,
        contrast: Contrast,
        *,
        temperature: float,
        consistency_temperature: float = 1.0,
        instance_weight: float = 1.0,
        consistency_weight: float = 0.0,
        direction: Direction = "symmetric",
        detach_positive: bool = False,
        label_smoothing: float = 0.0,
        noise_images: int = 0,
    ) -> Settings:
        """The settings of one comparison."""
        check_label_smoothing(label_smoothing, joined=contrast.also_positive is not None)
        score = contrast.score
        forward_weight, reverse_weight = kl_weights(direction)
        return cls(
            temperature=temperature,
            consistency_temperature=consistency_temperature,
            instance_weight=instance_weight,
            consistency_weight=consistency_weight,
            forward_weight=forward_weight,
            reverse_weight=reverse_weight,
            detach_positive=float(detach_positive),
            label_smoothing=label_smoothing,
            is_cosine=float(isinstance(score, Cosine)),
            scale=1.0 if isinstance(score, Cosine) else score.scale,
            limit=score.limit if isinstance(score, Clipped) else 0.0,
            penalty=score.penalty if isinstance(score, Clipped) else 0.0,
            noise_images=float(noise_images),
        )

    def needs_no_maximum(self, num_negatives: int, dtype: torch.dtype) -> bool:
        """Whether sums of exp(score / temperature) stay in range without subtracting a maximum.

        Scores of unit vectors lie in [-1, 1], so a sum over K of them is at most K exp(1 / temperature). The margin
        of 8.7 (the largest float32 is exp(88.7)) holds the factor delta <= 2 / temperature of the gradient's sums.
        """
        coldest = self.temperature
        if self.consistency_weight:
            coldest = min(coldest, self.consistency_temperature)
        largest = math.log(torch.finfo(dtype).max) - 8.7
        return bool(self.is_cosine) and 1 / coldest + math.log(num_negatives) <= largest


@dataclass(frozen=True)
class Inputs:
    """The tensors of a comparison. ``positive`` is always (N, M, D) here."""

    query: Tensor
    positive: Tensor
    negatives: Tensor
    negative_index: Tensor | None = None
    row_id: Tensor | None = None
    negative_id: Tensor | None = None
    valid: Tensor | None = None
    also_positive: Tensor | None = None
    partner: Tensor | None = None
    log_normaliser: Tensor | None = None

    @property
    def num_negatives(self) -> int:
        """J with draws, else K."""
        return self.negatives.shape[-2] if self.negative_index is None else self.negative_index.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What the loss is computed in."""
        return compute_dtype(self.query, self.positive, self.negatives)


def inputs_of(contrast: Contrast, *, partner: Tensor | None = None, log_normaliser: Tensor | None = None) -> Inputs:
    """The tensors of a comparison; its own ``partner`` and noise are left to the caller."""
    return Inputs(
        query=contrast.query,
        positive=contrast.positive if contrast.positive.dim() == 3 else contrast.positive[:, None],
        negatives=contrast.negatives,
        negative_index=contrast.negative_index,
        row_id=contrast.row_id,
        negative_id=contrast.negative_id,
        valid=contrast.valid,
        also_positive=contrast.also_positive,
        partner=partner,
        log_normaliser=log_normaliser,
    )


@dataclass(frozen=True)
class Needs:
    """Which gradients are asked for."""

    query: bool
    positive: bool
    negatives: bool

    def __bool__(self) -> bool:
        return self.query or self.positive or self.negatives


@dataclass
class Results:
    """Per-row values, and the gradient of the (weighted) sum of totals; None where it was not asked for."""

    total: Tensor  # (N,)
    instance: Tensor  # (N,), NaN where it was not computed, as is the next
    consistency: Tensor  # (N,)
    above: Tensor  # (N, M): negatives that the positive does not outrank, in the compute dtype
    grad_query: Tensor | None = None  # (N, D)
    grad_positive: Tensor | None = None  # (N, M, D)
    grad_negatives: Tensor | None = None  # as the negatives


def allocate(inputs: Inputs, needs: Needs) -> Results:
    """Results to be filled in, in the compute dtype."""
    rows, pairs, _ = inputs.positive.shape

    def full(shape: tuple[int, ...], value: float) -> Tensor:
        return torch.full(shape, value, dtype=inputs.dtype, device=inputs.query.device)

    return Results(
        total=full((rows,), torch.nan),
        instance=full((rows,), torch.nan),
        consistency=full((rows,), torch.nan),
        above=full((rows, pairs), torch.nan),
        grad_query=full(inputs.query.shape, 0) if needs.query else None,
        grad_positive=full(inputs.positive.shape, 0) if needs.positive else None,
        grad_negatives=full(inputs.negatives.shape, 0) if needs.negatives else None,
    )
