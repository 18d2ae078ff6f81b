"""Real photographs to compare operations on, and the published transforms as torchvision does them on PIL images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from PIL import ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from co2ssl.data import operations, patches, photometric
from co2ssl.data.operations import JITTER_ORDERS, RandomOperation
from co2ssl.data.pixels import Image

# Two photographs come with scikit-learn. Rows and columns of what is taken from them.
REGIONS = {
    "temple": ("china.jpg", np.s_[60:340, 60:360]),
    "roofs": ("china.jpg", np.s_[80:176, 100:228]),
    "sky": ("china.jpg", np.s_[0:120, 330:640]),
    "trees": ("china.jpg", np.s_[270:427, 300:500]),
    "petals": ("flower.jpg", np.s_[80:360, 170:450]),
    "heart": ("flower.jpg", np.s_[180:244, 270:334]),
    "leaves": ("flower.jpg", np.s_[0:200, 420:640]),
}


@cache
def photograph(name: str) -> Image:
    """A region of a photograph, or a whole one ("china", "flower"), RGB (H, W, 3) uint8; do not write to it."""
    file, region = REGIONS.get(name, (f"{name}.jpg", np.s_[:, :]))
    image: Image = load_sample_image(file)[region].copy()
    return image


@cache
def view_sized(name: str, side: int) -> Image:
    """The region squeezed to a square by Pillow: what operations after the crop meet."""
    resized = PilImage.fromarray(photograph(name)).resize((side, side), PilImage.Resampling.BILINEAR)
    return np.array(resized)


def pil(image: Image) -> PilImage.Image:
    return PilImage.fromarray(image)


def difference(ours: Image, theirs: PilImage.Image | Image) -> float:
    """Mean absolute difference in grey levels of 255."""
    reference = np.asarray(theirs)
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype == np.uint8
    return float(np.abs(ours.astype(np.float64) - reference).mean())


def assert_parity(ours: Image, theirs: PilImage.Image | Image, before: PilImage.Image | Image) -> None:
    """Mean absolute difference at most half a grey level, or a tenth of what the operation does there.

    Args:
        ours: the result.
        theirs: the reference.
        before: the image without the operation, of the same shape.
    """
    reference = np.asarray(theirs)
    effect = difference(reference, before)
    found = difference(ours, reference)
    assert found <= max(0.5, effect / 10), f"differs by {found:.3f} levels, the operation's effect is {effect:.3f}"
    # Nor may a part of the image be off: what a mean would hide at a border or in one colour.
    blocks = np.abs(ours.astype(np.float64) - reference).mean(axis=2)
    for edge in (blocks[:2], blocks[-2:], blocks[:, :2], blocks[:, -2:]):
        assert edge.mean() <= max(2.0, effect / 4)


class DrawnCrop(T.RandomResizedCrop):  # type: ignore[misc]
    """torchvision's crop with a box that was drawn elsewhere."""

    def __init__(self, operation: operations.RandomResizedCrop, row: Sequence[float]) -> None:
        super().__init__(operation.size, scale=(operation.min_area, operation.max_area), antialias=True)
        self.operation, self.row = operation, row

    def get_params(self, img: PilImage.Image, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
        return self.operation.box(img.height, img.width, self.row)


class DrawnJitter(T.ColorJitter):  # type: ignore[misc]
    """torchvision's jitter with factors and an order that were drawn elsewhere."""

    def __init__(self, row: Sequence[float]) -> None:
        super().__init__(0.5, 0.5, 0.5, 0.5)
        self.row = row

    def get_params(self, *_: Any) -> tuple[Any, ...]:
        return (torch.tensor(JITTER_ORDERS[int(self.row[5])]), *self.row[1:5])


class DrawnBlur(T.GaussianBlur):  # type: ignore[misc]
    """torchvision's blur with a sigma that was drawn elsewhere."""

    def __init__(self, taps: int, sigma: float) -> None:
        super().__init__(taps)
        self.drawn = sigma

    def get_params(self, *_: Any) -> float:
        return self.drawn


def reference_step(operation: RandomOperation, row: Sequence[float]) -> Callable[[PilImage.Image], PilImage.Image]:
    """What the published code does for this operation with these drawn parameters, on PIL images."""
    match operation:
        case operations.RandomResizedCrop():
            return DrawnCrop(operation, row)
        case operations.ColorJitter():
            return T.RandomApply([DrawnJitter(row)], p=row[0])  # type: ignore[no-any-return]
        case operations.RandomGrayscale():
            return T.RandomGrayscale(p=row[0])  # type: ignore[no-any-return]
        case operations.RandomHorizontalFlip():
            return T.RandomHorizontalFlip(p=row[0])  # type: ignore[no-any-return]
        case operations.GaussianBlur(kernel_share=None):
            return lambda view: view.filter(ImageFilter.GaussianBlur(radius=row[1])) if row[0] else view
        case operations.GaussianBlur():
            return lambda view: DrawnBlur(2 * (view.width // 10 // 2) + 1, row[1])(view) if row[0] else view
    return _reference_of_other_step(operation, row)


def _reference_of_other_step(
    operation: RandomOperation, row: Sequence[float]
) -> Callable[[PilImage.Image], PilImage.Image]:
    match operation:
        case patches.ResizeShortSide():
            return T.Resize(operation.size, InterpolationMode.BILINEAR, antialias=True)  # type: ignore[no-any-return]
        case patches.ResizeSquare():
            return T.Resize((operation.size,) * 2, InterpolationMode.BILINEAR, antialias=True)  # type: ignore[no-any-return]
        case patches.RandomCrop():
            return lambda view: tv.crop(view, *operation.box(view.height, view.width, row))
        case patches.GridPatch():
            return lambda view: tv.crop(view, *operation.box(row))
        case patches.RandomWindow():
            return lambda view: covered(view, operation.box(view.height, view.width, row))
        case photometric.RandomMeanGrey():
            return lambda view: mean_grey(view) if row[0] else view
        case photometric.RandomPhotometric():
            return T.RandomApply([lambda view: photometric_reference(view, *row[1:])], p=row[0])  # type: ignore[no-any-return]
    raise AssertionError(f"no reference for {operation}")


def reference_view(image: Image, steps: Sequence[RandomOperation], drawn: Sequence[Sequence[float]]) -> PilImage.Image:
    """A view by torchvision and Pillow alone, with the same drawn parameters."""
    pipeline = T.Compose([reference_step(step, row) for step, row in zip(steps, drawn, strict=True)])
    view: PilImage.Image = pipeline(pil(image))
    return view


def photometric_reference(view: PilImage.Image, bits: float, sharpness: float, threshold: float) -> PilImage.Image:
    view = ImageOps.posterize(view, int(bits))
    view = ImageEnhance.Sharpness(view).enhance(sharpness)
    return ImageOps.autocontrast(ImageOps.solarize(view, int(threshold)))


def mean_grey(view: PilImage.Image) -> PilImage.Image:
    grey = np.rint(np.asarray(view).astype(np.float64).mean(axis=2, keepdims=True))
    return PilImage.fromarray(np.repeat(grey, 3, axis=2).astype(np.uint8))


def covered(view: PilImage.Image, box: tuple[int, int, int, int]) -> PilImage.Image:
    top, left, height, width = box
    result = PilImage.new("RGB", view.size, (124, 116, 104))
    result.paste(tv.crop(view, top, left, height, width), (left, top))
    return result
