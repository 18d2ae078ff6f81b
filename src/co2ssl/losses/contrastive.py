"""Both terms of CO2 in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from co2ssl.losses.contrast import Contrast
from co2ssl.losses.engine import Implementation, evaluate_rows, prepare
from co2ssl.losses.options import Direction, Reduction, check_choice, check_temperature, check_weight, reduce_rows
from co2ssl.losses.settings import Settings


@dataclass(frozen=True)
class ContrastiveLoss:
    """What :func:`contrastive_loss` returns: scalars, or (N,) each where ``reduction`` is "none".

    Attributes:
        total: instance + consistency_weight * consistency; the only one that carries gradient.
        instance: InfoNCE (or NCE), detached. The paper's L_ins.
        consistency: the consistency term, not weighted, detached. The paper's L_con.
        top1: rows whose positive outranks every negative (share, count or flag, as the reduction says; M positives
            averaged): the accuracy of instance discrimination. A tie, to within rounding, is a miss, so a collapsed
            encoder has 0.
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
    normalise: bool = False,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> ContrastiveLoss:
    """InfoNCE plus ``consistency_weight`` times the consistency term, of one comparison.

    ``contrast.weight`` is not applied here; :class:`Objective` does that. With ``consistency_weight=0`` value and
    gradient are those of :func:`info_nce`, bit for bit, and the consistency is reported all the same (Figure 3 of
    the paper plots it for plain MoCo). Computed in float32 or wider, under autocast too.

    Args:
        contrast: N rows.
        temperature: of the instance term. The paper's tau_ins: 0.07 for MoCo, 0.2 for MoCo v2, 0.1 for SimCLR.
        consistency_weight: The paper's alpha: 10 for MoCo, 0.3 for MoCo v2.
        consistency_temperature: of P and Q. The paper's tau_con: 0.04 for MoCo, 0.05 for MoCo v2.
        direction: "symmetric" (the paper's), "forward" KL(P||Q) or "reverse" KL(Q||P).
        detach_positive: make P a constant target: no gradient through it, to the positive or the negatives.
        label_smoothing: share of InfoNCE's target spread evenly over the 1 + K classes.
        monitor_consistency: measure the consistency also where its weight is 0; NaN is reported otherwise.
        normalise: scale all vectors to unit length first (copies the table).
        reduction: over rows.
        implementation: "auto" picks by device and size, and where GPU kernels turn out not to run on this machine it
            warns and goes on in blocks; "reference" is the textbook form, "blocked" plain PyTorch in blocks, "triton" a
            GPU kernel.

    Raises:
        ValueError: an option out of range, vectors that are not of unit length under the cosine, a row without any
            negative, or an implementation that cannot take this comparison.
        RuntimeError: from a second backward through "blocked" or "triton"; from the backward where a table that carries
            gradient was written to before it; or from "triton" where its kernels do not run on this machine.
    """
    check_temperature("temperature", temperature)
    check_weight("consistency_weight", consistency_weight)
    check_temperature("consistency_temperature", consistency_temperature)
    check_choice("direction", direction, Direction)
    check_choice("reduction", reduction, Reduction)
    check_choice("implementation", implementation, Implementation)
    return loss_of(
        contrast,
        Settings.of(
            contrast,
            temperature=temperature,
            consistency_temperature=consistency_temperature,
            consistency_weight=consistency_weight,
            direction=direction,
            detach_positive=detach_positive,
            label_smoothing=label_smoothing,
        ),
        monitor_consistency=monitor_consistency,
        normalise=normalise,
        reduction=reduction,
        implementation=implementation,
    )


def loss_of(
    contrast: Contrast,
    settings: Settings,
    *,
    monitor_consistency: bool,
    normalise: bool,
    reduction: Reduction,
    implementation: Implementation,
) -> ContrastiveLoss:
    """The loss with its settings already made (InfoNCE or NCE)."""
    prepared = prepare(contrast, normalise=normalise)
    summed = reduction != "none"
    rows = evaluate_rows(prepared, settings, summed=summed, implementation=implementation)
    divergence = rows.consistency
    if not settings.consistency_weight and monitor_consistency:
        watched = settings._replace(instance_weight=0.0, consistency_weight=1.0)
        with torch.no_grad():
            divergence = evaluate_rows(prepared, watched, summed=summed, implementation=implementation).consistency
    total = rows.total / contrast.num_rows if reduction == "mean" else rows.total
    return ContrastiveLoss(
        total=total,
        instance=reduce_rows(rows.instance, reduction),
        consistency=reduce_rows(divergence, reduction),
        top1=reduce_rows((rows.above < 1).to(rows.above.dtype).mean(dim=1), reduction),
        top5=reduce_rows((rows.above < 5).to(rows.above.dtype).mean(dim=1), reduction),
        count=contrast.num_rows,
    )
