"""The pixel work of views on whole batches, in torch alone: what :mod:`co2ssl.data.pixels` does image by image.

All functions take and return RGB images (N, 3, H, W) in float32 that hold whole levels, 0 to 255, and change nothing in
place. Each image has parameters of its own, given as tensors (N,) on the images' device. Pillow's rounding is
reproduced step by step, so results differ from its own only where a float's last bit decides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# What should be whole may come out a rounding error below it, and would be truncated to one less.
_NEARLY = 1e-4


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """A region of each image, bilinear with antialiasing, (N, 3, size, size).

    Args:
        images: (N, 3, H, W).
        boxes: (N, 4), each (top, left, height, width).
        size: side of the result.
    """
    count, channels, height, width = images.shape
    top, left, crop_height, crop_width = boxes.to(torch.float32).unbind(1)
    across = _resize_weights(left, crop_width, width, size)
    along = _resize_weights(top, crop_height, height, size)
    # Pillow rounds to whole levels in between.
    rows = _rounded(torch.bmm(images.reshape(count, channels * height, width), across.transpose(1, 2)))
    return _rounded(torch.matmul(along[:, None], rows.view(count, channels, height, size)))


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``other`` (of the images' shape, or one that spreads to it) at factor 0, the images at 1, truncated."""
    share = factor[:, None, None, None]
    return (other + share * (images - other)).clamp_(0, 255).floor_()


def grey_level(images: Tensor) -> Tensor:
    """ITU-R 601 luma, (N, 1, H, W), as Pillow rounds it: in whole 65,536ths, which float32 holds exactly."""
    red, green, blue = images.split(1, dim=1)
    level: Tensor = 19595 * red + 38470 * green + 7471 * blue + 32768
    return level.mul_(2.0**-16).floor_()


def mean_level(grey: Tensor) -> Tensor:
    """The mean of grey images (N, 1, H, W) to the nearest level, (N, 1, 1, 1)."""
    return (grey.mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor_()


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """The hue turned by ``shift`` (N,), in turns; hue and saturation kept in 8 bits on the way, as Pillow does."""
    value, low = images.amax(dim=1), images.amin(dim=1)
    spread = value - low
    saturation = (255 * spread / value.clamp(min=1) + _NEARLY).floor_()
    red, green, blue = images.unbind(1)
    divisor = spread.clamp(min=1)
    sector = torch.where(
        red == value,
        (green - blue) / divisor,
        torch.where(green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (torch.remainder(sector / 6, 1) * 255 + _NEARLY).floor_()
    # Bytes overflow at 256 although 255 is a whole turn.
    turned = torch.remainder(hue + torch.remainder((shift * 255).trunc(), 256)[:, None, None], 256)
    depth = saturation / 255
    # Foley and van Dam's hexcone in one formula: how far each channel lies below the value.
    channels = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    place = torch.remainder(channels + (turned * (6 / 255))[:, None], 6)
    below = torch.minimum(place, 4 - place).clamp_(0, 1)
    return _rounded(value[:, None] * (1 - depth[:, None] * below))


def pil_gaussian_blur(images: Tensor, sigma: Tensor, *, max_sigma: float) -> Tensor:
    """Pillow's ``GaussianBlur``: three box blurs of fractional width, rounded after each, rows first.

    Args:
        images: (N, 3, H, W).
        sigma: (N,), standard deviations in pixels.
        max_sigma: at least the largest of them; known without asking the device.
    """
    kernels = _fractional_boxes(sigma, max_sigma)
    for dim in (3, 2):
        for _ in range(3):
            images = _rounded(_filtered(images, kernels, dim=dim, border="replicate"))
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """A sampled Gaussian of ``taps`` (odd) values, mirrored at the border: torchvision's ``gaussian_blur``."""
    offsets = torch.arange(taps, device=images.device, dtype=torch.float32) - (taps - 1) / 2
    kernels = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    for dim in (3, 2):
        images = _filtered(images, kernels, dim=dim, border="reflect")
    return images.round()


def _resize_weights(first: Tensor, length: Tensor, whole: int, size: int) -> Tensor:
    """What each of a line's ``whole`` pixels gives to each of the region's ``size``, (N, size, whole).

    Pillow's triangle, as wide as the scale when shrinking, cut off at the region's ends.
    """
    scale = length / size
    places = torch.arange(whole, device=first.device, dtype=torch.float32) + 0.5 - first[:, None]
    centres = (torch.arange(size, device=first.device, dtype=torch.float32) + 0.5) * scale[:, None]
    distance = (places[:, None, :] - centres[:, :, None]).abs() / scale.clamp(min=1)[:, None, None]
    inside = (places > 0) & (places < length[:, None])
    weights = (1 - distance).clamp_(min=0) * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def _fractional_boxes(sigma: Tensor, max_sigma: float) -> Tensor:
    """For each sigma the box that gives it when done three times, (N, taps); see ``pixels.pil_gaussian_blur``."""
    widest = int((math.sqrt(4 * max_sigma**2 + 1) - 1) / 2) + 1
    variance = (sigma * sigma / 3)[:, None]
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    outer = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    distance = torch.arange(-widest, widest + 1, device=sigma.device).abs()
    box = torch.where(distance <= whole, 1.0, torch.where(distance == whole + 1, outer, 0.0))
    return box / (2 * whole + 1 + 2 * outer)


def _filtered(images: Tensor, kernels: Tensor, *, dim: int, border: str) -> Tensor:
    """Each image filtered with its own kernel (N, odd taps) along ``dim``, 2 or 3."""
    reach = kernels.shape[1] // 2
    padding = (reach, reach, 0, 0) if dim == 3 else (0, 0, reach, reach)
    padded = F.pad(images, padding, mode=border)
    length = images.shape[dim]
    total = torch.zeros_like(images)
    for tap in range(kernels.shape[1]):
        total.addcmul_(padded.narrow(dim, tap, length), kernels[:, tap, None, None, None])
    return total


def _rounded(images: Tensor) -> Tensor:
    """To the nearest level, halves up."""
    return (images + 0.5).floor_().clamp_(0, 255)
