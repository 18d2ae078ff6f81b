"""From inner products to scores, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from co2ssl.losses.settings import Settings


def score_products(products: Tensor, settings: Settings) -> tuple[Tensor, Tensor | None]:
    """Scores of inner products of any shape, and the slope of the score where it is not a constant.

    Returns:
        The scores, and d score / d product of the same shape; None where the slope is ``settings.scale`` everywhere.
    """
    if not settings.limit:
        return (products if settings.scale == 1 else products * settings.scale), None
    bent = torch.tanh(products * (settings.scale / settings.limit))
    return bent * settings.limit, (1 - bent.square()) * settings.scale


def to_products(to_scores: Tensor, slope: Tensor | None, settings: Settings) -> Tensor:
    """Chain a gradient with respect to scores back to inner products; may write into ``to_scores``."""
    if slope is not None:
        return to_scores.mul_(slope)
    return to_scores if settings.scale == 1 else to_scores.mul_(settings.scale)
