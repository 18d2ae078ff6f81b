"""Patches of an image: Jigsaw's and relative position's cells, CPC's overlapping grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data import hashing, pixels
from co2ssl.data.batch import IMAGENET_MEAN
from co2ssl.data.operations import Numbers
from co2ssl.data.pixels import Image

# Of an image longer than this many times its short side only the middle is used where it is resized by its short side:
# a strip of one pixel by 5,000 would become a gigabyte.
MAX_ELONGATION = 16

# A place among the views that no view has: what belongs to an image and to none of its views is drawn there.
_NO_VIEW = 1 << 32

# The colour that normalisation turns into zero, to the nearest level.
MEAN_COLOUR = tuple(round(level) for level in IMAGENET_MEAN)


@dataclass(frozen=True, kw_only=True)
class ResizeShortSide:
    """The shorter side brought to ``size`` pixels, the aspect ratio kept; nothing random.

    Attributes:
        size: length of the shorter side.
    """

    size: int

    @property
    def draws(self) -> int:
        """None."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    def parameters(self, uniform: Numbers) -> Numbers:
        """None, (N, 0)."""
        return uniform.copy()

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:  # noqa: ARG002 - nothing is drawn
        """Bilinear with antialiasing, as torchvision's ``Resize(size)``."""
        height, width = image.shape[:2]
        longest = MAX_ELONGATION * min(height, width)
        top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
        return pixels.resize_short_side(image[top : top + longest, left : left + longest], self.size)


@dataclass(frozen=True, kw_only=True)
class ResizeSquare:
    """Squeezed to a square of ``size`` pixels; nothing random.

    Attributes:
        size: side of the result.
    """

    size: int

    @property
    def draws(self) -> int:
        """None."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    def parameters(self, uniform: Numbers) -> Numbers:
        """None, (N, 0)."""
        return uniform.copy()

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:  # noqa: ARG002 - nothing is drawn
        """Bilinear with antialiasing, as torchvision's ``Resize((size, size))``."""
        return pixels.resize(image, self.size, self.size)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A square of ``size`` pixels from anywhere in the image, not resized.

    Attributes:
        size: side of the square; the image must be at least as large.
    """

    size: int

    @property
    def draws(self) -> int:
        """A place."""
        return 2

    @property
    def columns(self) -> tuple[str, ...]:
        """The place as two numbers in [0, 1)."""
        return ("vertical", "horizontal")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Uniform."""
        return uniform.copy()

    def box(self, height: int, width: int, drawn: Sequence[float]) -> tuple[int, int, int, int]:
        """The square (top, left, size, size) in an image of this size; every place is equally likely."""
        top, left = (int(part * (side - self.size + 1)) for part, side in zip(drawn, (height, width), strict=True))
        return top, left, self.size, self.size

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The square, (size, size, 3)."""
        top, left, _, _ = self.box(image.shape[0], image.shape[1], drawn)
        return image[top : top + self.size, left : left + self.size]


@dataclass(frozen=True, kw_only=True)
class GridPatch:
    """A patch out of one cell of a square grid; which cell is the view's number, row by row from the top left.

    Jigsaw (3 x 3 cells of 85 pixels, patches of 64) leaves gaps at random, so that edges do not give the order away;
    CPC (7 x 7 patches of 64 pixels, 32 apart) overlaps.

    Attributes:
        grid: cells along a side.
        stride: pixels from one cell to the next.
        size: side of the patch in pixels.
        positions: where in its cell the patch may begin, along each side: pixel 0 to ``positions - 1``.
        cell: which one.
    """

    grid: int
    stride: int
    size: int
    positions: int = 1
    cell: int = 0

    @property
    def draws(self) -> int:
        """A place in the cell."""
        return 2

    @property
    def columns(self) -> tuple[str, ...]:
        """The cell (0 to grid * grid - 1), and pixels from its top left corner."""
        return ("cell", "top", "left")

    def parameters(self, uniform: Numbers) -> Numbers:
        """The cell is given; every place in it is equally likely."""
        return np.column_stack((np.full(len(uniform), float(self.cell)), np.floor(uniform * self.positions)))

    def box(self, drawn: Sequence[float]) -> tuple[int, int, int, int]:
        """The patch (top, left, size, size) in the picture."""
        row, column = divmod(int(drawn[0]), self.grid)
        return row * self.stride + int(drawn[1]), column * self.stride + int(drawn[2]), self.size, self.size

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The patch, (size, size, 3)."""
        top, left, _, _ = self.box(drawn)
        return image[top : top + self.size, left : left + self.size]


@dataclass(frozen=True, kw_only=True)
class RandomWindow:
    """Everything but a random square of the patch covered with one colour.

    Attributes:
        size: side of the square that stays, in pixels.
        colour: of the rest; the default becomes zero when it is normalised.
    """

    size: int
    colour: tuple[int, ...] = MEAN_COLOUR

    @property
    def draws(self) -> int:
        """A place."""
        return 2

    @property
    def columns(self) -> tuple[str, ...]:
        """The place as two numbers in [0, 1)."""
        return ("vertical", "horizontal")

    def parameters(self, uniform: Numbers) -> Numbers:
        """Uniform."""
        return uniform.copy()

    def box(self, height: int, width: int, drawn: Sequence[float]) -> tuple[int, int, int, int]:
        """The square that stays, (top, left, size, size)."""
        return RandomCrop(size=self.size).box(height, width, drawn)

    def apply(self, image: Image, drawn: Sequence[float]) -> Image:
        """The patch with its border covered, (H, W, 3)."""
        top, left, _, _ = self.box(image.shape[0], image.shape[1], drawn)
        covered = np.empty_like(image)
        covered[:] = self.colour
        inside = slice(top, top + self.size), slice(left, left + self.size)
        covered[inside] = image[inside]
        return covered


def relative_positions(grid: int = 3) -> tuple[tuple[int, int], ...]:
    """Pairs (neighbour, centre) of cells; the place of a pair is its class: eight for a grid of three.

    Relative position (Doersch et al. 2015): all pairs of an image are used, google/revisiting-self-supervised
    self_supervision/patch_utils.py.
    """
    centre = grid * grid // 2
    return tuple((cell, centre) for cell in range(grid * grid) if cell != centre)


def patch_orders(seed: int, *, epoch: int, index: NDArray[np.int64], patches: int = 9) -> NDArray[np.int64]:
    """A random order of its patches for each image, (N, patches), every order equally likely.

    PIRL embeds its nine patches in random order; a method puts the views in it. Depends on seed, epoch and index[i]
    alone, as the views do.
    """
    return np.argsort(hashing.uniform(seed, epoch=epoch, index=index, view=_NO_VIEW, draws=patches), axis=1)


def standardised_views(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each image of each view with mean 0 and standard deviation 1 over its pixels and channels.

    So that no patch gives its place away by its brightness: TensorFlow's ``per_image_standardization``, which
    google/revisiting-self-supervised applies to every patch. The deviation is at least 1 / sqrt(values in a patch).

    Args:
        views: each (N, C, H, W) uint8.

    Returns:
        As many views (N, C, H, W), float32.
    """
    return tuple(_standardised(images.float()) for images in views)


def _standardised(images: Tensor) -> Tensor:
    values = images[0].numel()
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return (images - mean) / deviation.clamp(min=values**-0.5)
