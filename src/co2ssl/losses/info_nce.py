"""The instance term: InfoNCE."""

from __future__ import annotations

from torch import Tensor

from co2ssl.losses.contrast import Contrast
from co2ssl.losses.contrastive import contrastive_loss
from co2ssl.losses.engine import Implementation
from co2ssl.losses.options import Reduction


def info_nce(
    contrast: Contrast,
    *,
    temperature: float,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> Tensor:
    """Cross-entropy of telling the positive from the negatives; the paper's L_ins.

    Computed in float32 or wider. Entries marked ``also_positive`` join the numerator, which makes this Local
    Aggregation's ratio (Zhuang et al., ICCV 2019). M positives are averaged. AMDIM's penalty is part of it.

    Args:
        contrast: N rows.
        temperature: of the scores. The paper's tau_ins: 0.07 for MoCo, 0.2 for MoCo v2, 0.1 for SimCLR.
        label_smoothing: share of the target spread evenly over the 1 + K classes (the paper's counter-experiment).
        reduction: over rows.
        implementation: see :func:`contrastive_loss`.

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        ValueError: as :func:`contrastive_loss`.
    """
    return contrastive_loss(
        contrast,
        temperature=temperature,
        label_smoothing=label_smoothing,
        monitor_consistency=False,
        reduction=reduction,
        implementation=implementation,
    ).total
