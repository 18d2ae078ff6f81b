"""The consistency term of CO2."""

from __future__ import annotations

from torch import Tensor

from co2ssl.losses.contrast import Contrast
from co2ssl.losses.engine import Implementation, evaluate_rows, prepare
from co2ssl.losses.options import Direction, Reduction, check_choice, check_temperature
from co2ssl.losses.settings import Settings


def consistency(
    contrast: Contrast,
    *,
    temperature: float,
    direction: Direction = "symmetric",
    detach_positive: bool = False,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> Tensor:
    """How far the query and its positive disagree about the negatives; the paper's L_con.

    P and Q are the softmax of the positive's and of the query's scores over the negatives only; the pair itself
    is a class of neither. The divergence is summed over negatives and averaged over rows (and M positives).
    Wei et al., *CO2: Consistent Contrast for Unsupervised Visual Representation Learning*, ICLR 2021, Section 3.

    Args:
        contrast: N rows.
        temperature: of both softmaxes. The paper's tau_con: 0.04 for MoCo, 0.05 for MoCo v2.
        direction: "symmetric" is half KL(P||Q) and half KL(Q||P); "forward" KL(P||Q); "reverse" KL(Q||P).
        detach_positive: make P a constant target: no gradient through it, to the positive or the negatives.
        reduction: over rows.
        implementation: see :func:`contrastive_loss`.

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        ValueError: as :func:`contrastive_loss`.
    """
    check_temperature("temperature", temperature)
    check_choice("direction", direction, Direction)
    check_choice("reduction", reduction, Reduction)
    check_choice("implementation", implementation, Implementation)
    settings = Settings.of(
        contrast,
        temperature=temperature,
        consistency_temperature=temperature,
        instance_weight=0.0,
        consistency_weight=1.0,
        direction=direction,
        detach_positive=detach_positive,
    )
    summed = reduction != "none"
    total = evaluate_rows(prepare(contrast), settings, summed=summed, implementation=implementation).total
    return total / contrast.num_rows if reduction == "mean" else total
