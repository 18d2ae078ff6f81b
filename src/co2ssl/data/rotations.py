"""The four quarter turns of a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor


def rotated_views(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each view turned by 0, 90, 180 and 270 degrees counter-clockwise: no pixel changes its value.

    Rotation (Gidaris et al. 2018); all four of an image in one batch, as google/revisiting-self-supervised
    preprocess.py does it. The place in the result is the class: view ``i`` is turned by ``90 * (i % 4)`` degrees.

    Args:
        views: each (N, C, S, S) of any type.

    Returns:
        Four views (N, C, S, S) for each.
    """
    return tuple(torch.rot90(images, quarter, dims=(2, 3)) for images in views for quarter in range(4))
