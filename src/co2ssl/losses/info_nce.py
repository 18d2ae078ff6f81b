"""The instance term: InfoNCE."""

from __future__ import annotations

from torch import Tensor

from co2ssl.losses import reference
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.options import Reduction, check_choice, check_temperature, reduce_rows


def info_nce(
    contrast: Contrast, *, temperature: float, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy of telling the positive from the negatives; the paper's L_ins.

    Computed in float32 or wider. Entries marked ``also_positive`` join the numerator, which makes this Local
    Aggregation's ratio (Zhuang et al., ICCV 2019, Eq. 4). M positives are averaged.

    Args:
        contrast: N rows.
        temperature: of the scores. The paper's tau_ins: 0.07 for MoCo, 0.2 for MoCo v2, 0.1 for SimCLR.
        label_smoothing: share of the target spread evenly over the 1 + K classes (the paper's counter-experiment).
        reduction: over rows.

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        ValueError: an option out of range, or a row without any negative.
    """
    check_temperature("temperature", temperature)
    check_choice("reduction", reduction, Reduction)
    rows, _ = reference.instance_rows(contrast, temperature=temperature, label_smoothing=label_smoothing)
    return reduce_rows(rows, reduction)
