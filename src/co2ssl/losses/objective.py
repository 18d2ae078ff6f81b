"""The objective: what the training loop turns a method's comparisons into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from co2ssl.errors import UsageError
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.contrastive import loss_of
from co2ssl.losses.engine import Implementation
from co2ssl.losses.nce import noise_images
from co2ssl.losses.options import Direction, check_choice, check_temperature, check_weight
from co2ssl.losses.prediction import Prediction, Triplet
from co2ssl.losses.pretext import prediction_rows, triplet_rows
from co2ssl.losses.settings import Settings

Instance: TypeAlias = Literal["info_nce", "nce"]


@dataclass(frozen=True)
class LossSums:
    """Sums over rows, so that micro-batches and ranks of unequal size average exactly: divide by ``count``.

    Attributes:
        total: weighted sum of both terms over comparisons; the only one that carries gradient.
        instance: the instance part of it (for a pretext method all of it), detached.
        consistency: the consistency part, weighted by comparison but not by ``consistency_weight``, detached.
        count: rows of the first comparison. One with another number of rows is scaled to this, so that
            ``total / count`` is the weighted sum of the comparisons' means.
        top1: rows told apart rightly (a tie is a miss), averaged over comparisons.
        top5: rows whose answer is among the first five, averaged over comparisons.
    """

    total: Tensor
    instance: Tensor
    consistency: Tensor
    count: int
    top1: Tensor
    top5: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective:
    """sum over comparisons of  weight * (instance_loss + consistency_weight * consistency).

    Attributes:
        temperature: of the instance loss. The paper's tau_ins.
        consistency_weight: The paper's alpha; 0 is the baseline, bit for bit.
        consistency_temperature: The paper's tau_con.
        direction: of the divergence: "symmetric", "forward" KL(P||Q), "reverse" KL(Q||P).
        detach_positive: make P a constant target.
        instance: "info_nce" (with ``also_positive``: Local Aggregation's ratio) or "nce".
        label_smoothing: of InfoNCE.
        monitor_consistency: measure the consistency also where its weight is 0.
        implementation: of the loss: "auto" picks by device and size.

    Raises:
        ValueError: an option out of range.
    """

    temperature: float
    consistency_weight: float = 0.0
    consistency_temperature: float = 0.04
    direction: Direction = "symmetric"
    detach_positive: bool = False
    instance: Instance = "info_nce"
    label_smoothing: float = 0.0
    monitor_consistency: bool = True
    implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        check_temperature("temperature", self.temperature)
        check_weight("consistency_weight", self.consistency_weight)
        check_temperature("consistency_temperature", self.consistency_temperature)
        check_choice("direction", self.direction, Direction)
        check_choice("instance", self.instance, Instance)
        check_choice("implementation", self.implementation, Implementation)
        if self.instance == "nce" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to InfoNCE; NCE has no classes to spread the target over")

    def __call__(self, comparisons: Sequence[Contrast | Prediction | Triplet]) -> LossSums:
        """Add up the comparisons of one step.

        Raises:
            UsageError: consistency is asked of a pretext method.
            ValueError: no comparison, or one that the loss refuses.
        """
        if not comparisons:
            raise ValueError("a step needs at least one comparison")
        parts = [(comparison.weight, self._sums(comparison)) for comparison in comparisons]
        count = parts[0][1].count
        scales = [count / part.count for _, part in parts]

        def add(name: str, weights: Sequence[float]) -> Tensor:
            values = [getattr(part, name) for _, part in parts]
            # Multiplying by 1 is exact, so one comparison of weight 1 keeps its bits.
            return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum()

        weighted = [weight * scale for (weight, _), scale in zip(parts, scales, strict=True)]
        averaged = [scale / len(parts) for scale in scales]
        return LossSums(
            total=add("total", weighted),
            instance=add("instance", weighted),
            consistency=add("consistency", weighted),
            count=count,
            top1=add("top1", averaged),
            top5=add("top5", averaged),
        )

    def _sums(self, comparison: Contrast | Prediction | Triplet) -> LossSums:
        if isinstance(comparison, Contrast):
            return self._contrast_sums(comparison)
        if self.consistency_weight > 0:
            kind = "classifies" if isinstance(comparison, Prediction) else "compares triplets"
            raise UsageError(
                "+co2 does not apply to this method: the consistency term compares how the query and its positive see "
                f"the negatives, and a pretext method has none (it {kind}); use the recipe without +co2"
            )
        rows = prediction_rows(comparison) if isinstance(comparison, Prediction) else triplet_rows(comparison)
        total = rows.loss.sum()
        return LossSums(
            total=total,
            instance=total.detach(),
            consistency=torch.zeros_like(total.detach()),
            count=rows.loss.shape[0],
            top1=rows.top1.sum().to(total.dtype),
            top5=rows.top5.sum().to(total.dtype),
        )

    def _contrast_sums(self, contrast: Contrast) -> LossSums:
        is_nce = self.instance == "nce"
        settings = Settings.of(
            contrast,
            temperature=self.temperature,
            consistency_temperature=self.consistency_temperature,
            consistency_weight=self.consistency_weight,
            direction=self.direction,
            detach_positive=self.detach_positive,
            label_smoothing=self.label_smoothing,
            noise_images=noise_images(contrast) if is_nce else 0,
        )
        loss = loss_of(
            contrast,
            settings,
            monitor_consistency=self.monitor_consistency,
            normalise=False,
            reduction="sum",
            implementation=self.implementation,
        )
        return LossSums(
            total=loss.total,
            instance=loss.instance,
            consistency=loss.consistency,
            count=loss.count,
            top1=loss.top1,
            top5=loss.top5,
        )
