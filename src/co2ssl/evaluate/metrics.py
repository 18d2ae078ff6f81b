"""Accuracy, from scores and labels."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Place of the right class among the scores, 0 for the first: (N, C), (N,) int64 -> (N,) int64.

    Of two classes with the same score the one with the lower number comes first, so a constant score is no
    better than a guess, and the result does not depend on how a sort breaks ties.
    """
    own = scores.gather(1, labels.unsqueeze(1))
    before = torch.arange(scores.shape[1], device=scores.device) < labels.unsqueeze(1)
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def top_k_accuracy(scores: Tensor, labels: Tensor, *, k: int) -> float:
    """Share of rows, 0 to 1, whose class is among the ``k`` highest scores (1 where there are no more classes)."""
    return float((ranks(scores, labels) < k).double().mean())


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """``top1`` and ``top5``, shares from 0 to 1.

    Raises:
        ValueError: a score is NaN, or there are no rows.
    """
    if len(labels) == 0:
        raise ValueError("accuracy of no rows is not defined")
    if bool(torch.isnan(scores).any()):
        raise ValueError("scores hold NaN, which has no rank")
    return {"top1": top_k_accuracy(scores, labels, k=1), "top5": top_k_accuracy(scores, labels, k=5)}
