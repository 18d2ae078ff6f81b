"""Changes of brightness and colour that single methods use beside jitter: PIRL's four, and a plain mean for grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from co2ssl.data.operations import Numbers
from co2ssl.data.pixels import Image

_LEVELS = np.arange(256)

# Pillow's ImageFilter.SMOOTH, what its sharpness blends with.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13


@dataclass(frozen=True, kw_only=True)
class RandomMeanGrey:
    """The mean of red, green and blue on all three channels, with a probability."""

    probability: float

    @property
    def draws(self) -> int:
        """Whether."""
        return 1

    @property
    def columns(self) -> tuple[str, ...]:
        """0 or 1."""
        return ("applied",)

    def parameters(self, uniform: Numbers) -> Numbers:
        """1 with the probability, else 0."""
        return (uniform < self.probability).astype(np.float64)

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """Grey, or the image itself."""
        return mean_grey(image) if drawn[0] else image


@dataclass(frozen=True, kw_only=True)
class RandomPhotometric:
    """Posterise, sharpen, solarise and stretch the contrast, all four in this order, with a probability.

    PIRL (Misra and van der Maaten 2020), facebookresearch/vissl img_pil_random_photometric.py.

    Attributes:
        probability: of doing anything.
        bits: fewest and most bits that posterising keeps.
        sharpness: smallest and largest factor; below 1 it blurs.
        threshold: lowest and highest level from which on solarising inverts.
    """

    probability: float = 0.66
    bits: tuple[int, int] = (4, 8)
    sharpness: tuple[float, float] = (0.1, 1.9)
    threshold: tuple[int, int] = (0, 256)

    @property
    def draws(self) -> int:
        """Whether, and three amounts."""
        return 4

    @property
    def columns(self) -> tuple[str, ...]:
        """``applied`` is 0 or 1."""
        return ("applied", "bits", "sharpness", "threshold")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Whole bits and thresholds equally likely, both ends included; the factor of sharpness uniform."""
        drawn = np.empty_like(uniform)
        drawn[:, 0] = uniform[:, 0] < self.probability
        drawn[:, 1] = _whole(uniform[:, 1], self.bits)
        drawn[:, 2] = self.sharpness[0] + uniform[:, 2] * (self.sharpness[1] - self.sharpness[0])
        drawn[:, 3] = _whole(uniform[:, 3], self.threshold)
        return drawn

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """Changed, or the image itself."""
        if not drawn[0]:
            return image
        return autocontrast(solarise(sharpen(posterise(image, int(drawn[1])), drawn[2]), int(drawn[3])))


def posterise(image: Image, bits: int) -> Image:
    """The upper ``bits`` of each value: Pillow's ``ImageOps.posterize``."""
    return image & np.uint8(256 - 2 ** (8 - bits))


def solarise(image: Image, threshold: int) -> Image:
    """Values from ``threshold`` on inverted: Pillow's ``ImageOps.solarize``."""
    return _look_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def autocontrast(image: Image) -> Image:
    """Each channel stretched from its lowest and highest value to 0 .. 255: Pillow's ``ImageOps.autocontrast``."""
    low = image.min(axis=(0, 1)).astype(np.float64)
    high = image.max(axis=(0, 1)).astype(np.float64)
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1)
    offset = np.where(high > low, -low * scale, 0)
    return _look_up(image, np.clip((_LEVELS[:, None] * scale + offset).astype(int), 0, 255))


def sharpen(image: Image, factor: float) -> Image:
    """Blend with a smoothed image: factor 0 is smooth, 1 the image, more is sharper. Pillow's ``Sharpness``."""
    smooth = np.asarray(cv2.filter2D(image, -1, _SMOOTH), dtype=np.uint8)
    # Pillow leaves the outermost pixels as they are.
    for border in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
        smooth[border] = image[border]
    blended = smooth + np.float32(factor) * (image.astype(np.float32) - smooth)
    return np.clip(blended, 0, 255).astype(np.uint8)


def mean_grey(image: Image) -> Image:
    """The mean of the three channels, to the nearest level, on all of them."""
    total = image.astype(np.uint16).sum(axis=2, dtype=np.uint16)
    return np.repeat(((total + 1) // 3).astype(np.uint8)[..., None], 3, axis=2)


def _look_up(image: Image, table: np.typing.NDArray[np.int64]) -> Image:
    """``table`` (256,) or (256, 3) read at each value of each channel."""
    columns = np.broadcast_to(table.reshape(256, -1), (256, 3)).astype(np.uint8)
    return np.asarray(cv2.LUT(image, columns[None]), dtype=np.uint8).reshape(image.shape)


def _whole(uniform: Numbers, limits: tuple[int, int]) -> Numbers:
    return limits[0] + np.floor(uniform * (limits[1] - limits[0] + 1))
