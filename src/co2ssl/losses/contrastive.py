"""Both terms of CO2 in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from co2ssl.losses import reference
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.options import Direction, Reduction, check_choice, check_temperature, reduce_rows

Implementation: TypeAlias = Literal["auto", "reference", "blocked", "triton"]


@dataclass(frozen=True)
class ContrastiveLoss:
    """What :func:`contrastive_loss` returns: scalars, or (N,) each where ``reduction`` is "none".

    Attributes:
        total: instance + consistency_weight * consistency; the only one that carries gradient.
        instance: InfoNCE, detached. The paper's L_ins.
        consistency: the consistency term, not weighted, detached. The paper's L_con.
        top1: rows whose positive outranks every negative (share, count or flag, as the reduction says; M positives
            averaged): the accuracy of instance discrimination.
        top5: rows whose positive is among the first five.
        count: N.
    """

    total: Tensor
    instance: Tensor
    consistency: Tensor
    top1: Tensor
    top5: Tensor
    count: int


def contrastive_loss(
    contrast: Contrast,
    *,
    temperature: float,
    consistency_weight: float = 0.0,
    consistency_temperature: float = 0.04,
    direction: Direction = "symmetric",
    detach_positive: bool = False,
    label_smoothing: float = 0.0,
    monitor_consistency: bool = True,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> ContrastiveLoss:
    """InfoNCE plus ``consistency_weight`` times the consistency term, of one comparison.

    ``contrast.weight`` is not applied here; :class:`Objective` does that. With ``consistency_weight=0`` value and
    gradient are those of :func:`info_nce`, bit for bit, and the consistency is reported all the same (Figure 3 of
    the paper plots it for plain MoCo).

    Args:
        contrast: N rows.
        temperature: of the instance term. The paper's tau_ins.
        consistency_weight: The paper's alpha: 10 for MoCo, 0.3 for MoCo v2.
        consistency_temperature: of P and Q. The paper's tau_con: 0.04 for MoCo, 0.05 for MoCo v2.
        direction: "symmetric" (the paper's), "forward" KL(P||Q) or "reverse" KL(Q||P).
        detach_positive: make P a constant target.
        label_smoothing: of the instance term.
        monitor_consistency: measure the consistency also where its weight is 0; NaN is reported otherwise.
        reduction: over rows.
        implementation: "auto" picks by device and size.

    Raises:
        ValueError: an option out of range, or a row without any negative.
    """
    check_temperature("temperature", temperature)
    check_temperature("consistency_temperature", consistency_temperature)
    check_choice("direction", direction, Direction)
    check_choice("reduction", reduction, Reduction)
    check_choice("implementation", implementation, Implementation)
    instance, above = reference.instance_rows(contrast, temperature=temperature, label_smoothing=label_smoothing)

    def measure() -> Tensor:
        return reference.consistency_rows(
            contrast, temperature=consistency_temperature, direction=direction, detach_positive=detach_positive
        )

    total = instance
    if consistency_weight != 0:
        divergence = measure()
        total = instance + consistency_weight * divergence
    elif monitor_consistency:
        with torch.no_grad():
            divergence = measure()
    else:
        divergence = torch.full_like(instance, torch.nan)
    return ContrastiveLoss(
        total=reduce_rows(total, reduction),
        instance=reduce_rows(instance.detach(), reduction),
        consistency=reduce_rows(divergence.detach(), reduction),
        top1=reduce_rows((above < 1).to(instance.dtype).mean(dim=1), reduction),
        top5=reduce_rows((above < 5).to(instance.dtype).mean(dim=1), reduction),
        count=contrast.num_rows,
    )
