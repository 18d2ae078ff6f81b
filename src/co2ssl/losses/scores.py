"""From inner products to scores, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from co2ssl.losses.settings import Settings

# How far apart, in roundings of the dtype, inner products of equal vectors may come out of kernels that add up in
# different orders: about the root of the width, and embeddings are narrower than 4,096.
ROUNDINGS = 64


def outranked_below(pairs: Tensor) -> Tensor:
    """What an entry's score must stay below for the pair to outrank it, from the pairs' scores in any unit.

    A collapsed encoder gives all entries the pair's own score, and rounding alone would say which is higher: an entry
    as near as that is not outranked.
    """
    return pairs - ROUNDINGS * torch.finfo(pairs.dtype).eps * pairs.abs()


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
