"""Lab colour, and the two views that CMC makes of it: lightness, and the two colour axes."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to XYZ (IEC 61966-2-1, as scikit-image rounds it) and the white point D65 of the 2 degree observer: CMC
# converts with scikit-image.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)

# Where the cube root turns into a straight line (CIE 1976, in the rounded form that scikit-image uses).
_LINEAR_BELOW = 0.008856
_SLOPE, _OFFSET = 7.787, 16 / 116

# Lowest and highest values of L, a and b over all of sRGB; CMC maps each range to -1 .. 1.
LAB_LOW = (0.0, -86.183, -107.857)
LAB_HIGH = (100.0, 98.233, 94.478)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB to CIE Lab (D65), on the device where the images are.

    Args:
        images: (N, 3, H, W) uint8.

    Returns:
        (N, 3, H, W) float32: L from 0 to 100, a from -86.2 to 98.2, b from -107.9 to 94.5.
    """
    colour = images.float() / 255
    linear = torch.where(colour > 0.04045, ((colour + 0.055) / 1.055) ** 2.4, colour / 12.92)
    matrix = torch.tensor(_XYZ_FROM_RGB, device=images.device) / torch.tensor(_WHITE, device=images.device)[:, None]
    x, y, z = torch.einsum("rc,nchw->rnhw", matrix, linear)
    fx, fy, fz = (_cube_root(channel) for channel in (x, y, z))
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), dim=1)


def lab_views(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Two views of each: lightness and colour, each channel's range over sRGB mapped to -1 .. 1.

    CMC (Tian et al. 2019), HobbitLong/CMC train_CMC.py: L and ab go to a network of their own each.

    Args:
        views: each (N, 3, H, W) uint8.

    Returns:
        For each view L (N, 1, H, W) and ab (N, 2, H, W), float32.
    """
    split: list[Tensor] = []
    for images in views:
        low = torch.tensor(LAB_LOW, device=images.device).view(1, 3, 1, 1)
        high = torch.tensor(LAB_HIGH, device=images.device).view(1, 3, 1, 1)
        lab = (2 * rgb_to_lab(images) - (high + low)) / (high - low)
        split += [lab[:, :1], lab[:, 1:]]
    return tuple(split)


def _cube_root(ratio: Tensor) -> Tensor:
    return torch.where(ratio > _LINEAR_BELOW, ratio.clamp(min=_LINEAR_BELOW) ** (1 / 3), _SLOPE * ratio + _OFFSET)
