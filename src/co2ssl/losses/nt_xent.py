"""SimCLR's loss from the two crops' embeddings, in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses.contrast import Contrast
from co2ssl.losses.engine import Implementation
from co2ssl.losses.info_nce import info_nce
from co2ssl.losses.options import Reduction


def pair_contrast(first: Tensor, second: Tensor, *, normalise: bool = False) -> Contrast:
    """The comparison that SimCLR makes of a batch: every crop a query once, all crops of other images its negatives.

    Args:
        first: (N, D) embeddings of one crop of each image.
        second: (N, D) of the other crop, in the same order.
        normalise: scale to unit length first.

    Returns:
        A comparison of 2N rows against 2N candidates that carry gradient, for :func:`contrastive_loss`.

    Raises:
        ValueError: shapes that differ.
    """
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(f"first and second must both be (N, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    embeddings = torch.cat([first, second])
    if normalise:
        embeddings = F.normalize(embeddings, dim=1)
    rows = torch.arange(2 * len(first), device=first.device)
    partner = rows.roll(len(first))
    image = rows % len(first)
    return Contrast(
        query=embeddings,
        positive=embeddings[partner],
        negatives=embeddings,
        row_id=image,
        negative_id=image,
        partner=partner,
    )


def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float,
    normalise: bool = False,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> Tensor:
    """NT-Xent: the mean over the 2N crops of InfoNCE against the 2N - 2 crops of other images.

    Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML 2020, Eq. 1. One
    process; gather the embeddings (with gradient) first where there are more.

    Args:
        first: (N, D) unit embeddings of one crop of each image.
        second: (N, D) of the other crop.
        temperature: 0.1 for SimCLR on ImageNet.
        normalise: scale to unit length first.
        reduction: over the 2N crops.
        implementation: see :func:`contrastive_loss`.

    Raises:
        ValueError: shapes that differ, a single image, or vectors that are not of unit length.
    """
    contrast = pair_contrast(first, second, normalise=normalise)
    return info_nce(contrast, temperature=temperature, reduction=reduction, implementation=implementation)
