"""The random operations that views are made of.

Each is a frozen dataclass of its published parameters. It turns uniform numbers into drawn parameters for many images
at once, and applies one image's drawn parameters to it. Drawing and pixels are apart, so what was drawn can be
tested, shown and repeated. The pixel work is in :mod:`co2ssl.data.pixels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from co2ssl.data import pixels
from co2ssl.data.pixels import Image

Numbers = NDArray[np.float64]

CROP_ATTEMPTS = 10
JITTER_ORDERS = tuple(permutations(range(4)))


class RandomOperation(Protocol):
    """One random step on the way from an image to a view."""

    @property
    def draws(self) -> int:
        """How many uniform numbers one image needs."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the drawn parameters."""

    def parameters(self, uniform: Numbers) -> Numbers:
        """Uniform numbers (N, draws) in [0, 1) to drawn parameters (N, len(columns))."""

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The image after this operation, with one row of drawn parameters."""


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random region of random area and aspect ratio, resized to a square.

    Ten attempts at a region that fits, then the largest central one within the aspect limits, as in torchvision.

    Attributes:
        size: side of the result in pixels.
        min_area: smallest area of the region, as a share of the image's.
        max_area: largest area of the region.
        min_aspect: smallest width / height, drawn log-uniformly.
        max_aspect: largest width / height.
    """

    size: int
    min_area: float
    max_area: float = 1.0
    min_aspect: float = 3 / 4
    max_aspect: float = 4 / 3

    @property
    def draws(self) -> int:
        """An area and an aspect for each attempt, and a place."""
        return 2 * CROP_ATTEMPTS + 2

    @property
    def columns(self) -> tuple[str, ...]:
        """Area shares, aspect ratios, and the place as two numbers in [0, 1)."""
        attempts = range(CROP_ATTEMPTS)
        return (*(f"area_{i}" for i in attempts), *(f"aspect_{i}" for i in attempts), "vertical", "horizontal")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Areas uniform, aspects log-uniform, places uniform."""
        drawn = uniform.copy()
        drawn[:, :CROP_ATTEMPTS] = self.min_area + uniform[:, :CROP_ATTEMPTS] * (self.max_area - self.min_area)
        low, high = math.log(self.min_aspect), math.log(self.max_aspect)
        aspects = slice(CROP_ATTEMPTS, 2 * CROP_ATTEMPTS)
        drawn[:, aspects] = np.exp(low + uniform[:, aspects] * (high - low))
        return drawn

    def box(self, height: int, width: int, drawn: Sequence[float]) -> tuple[int, int, int, int]:
        """The region (top, left, height, width) in an image of this size."""
        for attempt in range(CROP_ATTEMPTS):
            area, aspect = drawn[attempt] * height * width, drawn[CROP_ATTEMPTS + attempt]
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(drawn[-2] * (height - crop_height + 1))
                left = int(drawn[-1] * (width - crop_width + 1))
                return top, left, crop_height, crop_width
        crop_height, crop_width = height, width
        if width / height < self.min_aspect:
            crop_height = max(1, round(width / self.min_aspect))
        elif width / height > self.max_aspect:
            crop_width = max(1, round(height * self.max_aspect))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The drawn region, bilinear with antialiasing, (size, size, 3)."""
        return pixels.resized_crop(image, self.box(image.shape[0], image.shape[1], drawn), self.size)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue changed by random amounts in random order.

    Attributes:
        brightness: factor drawn from max(0, 1 - brightness) to 1 + brightness; contrast and saturation likewise.
        contrast: see brightness.
        saturation: see brightness.
        hue: turns of the colour circle, drawn from -hue to hue; at most 0.5.
        probability: of doing anything at all.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float = 1.0

    @property
    def draws(self) -> int:
        """Whether, four amounts, and the order."""
        return 6

    @property
    def columns(self) -> tuple[str, ...]:
        """``applied`` is 0 or 1, ``order`` a place in :data:`JITTER_ORDERS`."""
        return ("applied", "brightness", "contrast", "saturation", "hue", "order")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Factors and the turn of hue uniform; each of the 24 orders equally likely."""
        amounts = np.array([self.brightness, self.contrast, self.saturation])
        low = np.maximum(0.0, 1.0 - amounts)
        drawn = np.empty_like(uniform)
        drawn[:, 0] = uniform[:, 0] < self.probability
        drawn[:, 1:4] = low + uniform[:, 1:4] * (1.0 + amounts - low)
        drawn[:, 4] = self.hue * (2.0 * uniform[:, 4] - 1.0)
        drawn[:, 5] = np.floor(uniform[:, 5] * len(JITTER_ORDERS))
        return drawn

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The four adjustments in the drawn order, or the image itself."""
        if not drawn[0]:
            return image
        for which in JITTER_ORDERS[int(drawn[5])]:
            image = _ADJUSTMENTS[which](image, drawn[1 + which])
        return image


_ADJUSTMENTS = (
    pixels.adjust_brightness,
    pixels.adjust_contrast,
    pixels.adjust_saturation,
    pixels.adjust_hue,
)


@dataclass(frozen=True, kw_only=True)
class RandomGrayscale:
    """Grey on all three channels, with a probability."""

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
        return pixels.to_grey(image) if drawn[0] else image


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip:
    """Left and right exchanged, with a probability."""

    probability: float = 0.5

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
        """Flipped, or the image itself."""
        return pixels.flip(image) if drawn[0] else image


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """A blur of random width, with a probability.

    Attributes:
        min_sigma: smallest standard deviation in pixels (of the view), drawn uniformly.
        max_sigma: largest.
        probability: of doing anything.
        kernel_share: None for Pillow's blur (MoCo v2). A number for a sampled Gaussian cut off at this share of the
            view's side (SimCLR: 0.1), as an odd number of values: 2 * floor(floor(share * side) / 2) + 1.
    """

    min_sigma: float = 0.1
    max_sigma: float = 2.0
    probability: float = 0.5
    kernel_share: float | None = None

    @property
    def draws(self) -> int:
        """Whether, and sigma."""
        return 2

    @property
    def columns(self) -> tuple[str, ...]:
        """``applied`` is 0 or 1."""
        return ("applied", "sigma")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Sigma uniform."""
        drawn = np.empty_like(uniform)
        drawn[:, 0] = uniform[:, 0] < self.probability
        drawn[:, 1] = self.min_sigma + uniform[:, 1] * (self.max_sigma - self.min_sigma)
        return drawn

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """Blurred, or the image itself."""
        if not drawn[0]:
            return image
        if self.kernel_share is None:
            return pixels.pil_gaussian_blur(image, drawn[1])
        return pixels.gaussian_blur(image, drawn[1], self.taps(image.shape[0]))

    def taps(self, side: int) -> int:
        """Values of the sampled Gaussian in a view of ``side`` pixels."""
        assert self.kernel_share is not None
        return 2 * (int(side * self.kernel_share) // 2) + 1
