"""Views made of whole batches where the network is: the same draws and the same operations, on tensors.

Images have many sizes, so in training workers decode, crop and resize them, and the device does the rest
(:func:`finished_views`). Images that have one size (CIFAR's) can also be cropped there (:func:`batched_views`). Either
way uint8 is what crosses. What is drawn is what the workers draw, and the pixels are Pillow's within the bounds that
hold for theirs; they are not the workers' bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data import device_pixels as pixels
from co2ssl.data.operations import (
    CROP_ATTEMPTS,
    JITTER_ORDERS,
    ColorJitter,
    GaussianBlur,
    Numbers,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomOperation,
    RandomResizedCrop,
)
from co2ssl.data.recipe import ViewRecipe
from co2ssl.errors import UsageError

_HUE = 3
_INSTEAD = "make its views in the workers (--views-on worker)"
_ORDERS = np.array(JITTER_ORDERS)


def batched_views(images: Tensor, recipe: ViewRecipe, drawn: Sequence[Sequence[Numbers]]) -> tuple[Tensor, ...]:
    """All views of images of one size, made on the device that the images are on.

    Needs about ten times the memory of one view of the batch in float32.

    Args:
        images: (N, H, W, 3) uint8 RGB; not changed.
        recipe: crop, colour jitter, grey, flip and blur in any order; ``split`` is left to :meth:`Batch.to`.
        drawn: for each view, what :meth:`ViewRecipe.draw` gave for these images, arrays of N rows.

    Returns:
        For each view (N, 3, size, size) uint8 in channels-last layout: what the loader's batches hold.

    Raises:
        UsageError: the recipe has shared operations, patches, or another operation that exists per image only.
        ValueError: the images are not (N, H, W, 3) uint8, or the draws are not theirs.
    """
    _require_batched(recipe)
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be (N, H, W, 3) uint8, not {tuple(images.shape)} {images.dtype}")
    _require_theirs(drawn, len(images))
    levels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return tuple(_view(levels, recipe.operations, rows) for rows in drawn)


def crops_alone(recipe: ViewRecipe) -> ViewRecipe:
    """What is left of a recipe for workers to do where the device finishes its views: the crop, resized.

    Raises:
        UsageError: the recipe does not begin with that crop, or the device cannot do what follows.
    """
    _require_batched(recipe)
    first = recipe.operations[0]
    if not isinstance(first, RandomResizedCrop):
        raise UsageError(
            f"the view recipe {recipe.name} begins with {type(first).__name__}, not with a crop to one size, without "
            f"which there is no batch to finish on the device; {_INSTEAD}"
        )
    return replace(recipe, operations=(first,))


def finished_views(
    crops: Sequence[Tensor], recipe: ViewRecipe, drawn: Sequence[Sequence[Numbers]]
) -> tuple[Tensor, ...]:
    """The views whose crops the workers made, finished on the device that these are on.

    Args:
        crops: for each view (N, 3, size, size) uint8, by :func:`crops_alone`; not changed.
        recipe: the whole of it; ``split`` is left to :meth:`Batch.to`.
        drawn: for each view, what was drawn for its operations after the crop, arrays of N rows.

    Returns:
        As :func:`batched_views`.

    Raises:
        ValueError: the draws are not those of these images.
    """
    _require_theirs(drawn, len(crops[0]))
    return tuple(
        _view(view.to(torch.float32, memory_format=torch.contiguous_format), recipe.operations[1:], rows)
        for view, rows in zip(crops, drawn, strict=True)
    )


def crop_boxes(crop: RandomResizedCrop, height: int, width: int, drawn: Numbers) -> NDArray[np.int64]:
    """The regions (N, 4), each (top, left, height, width), in images of this size: ``crop.box`` for many draws."""
    areas = drawn[:, :CROP_ATTEMPTS] * height * width
    aspects = drawn[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS]
    widths, heights = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    rows, first = np.arange(len(drawn)), fits.argmax(axis=1)
    crop_height, crop_width = heights[rows, first], widths[rows, first]
    top = np.floor(drawn[:, -2] * (height - crop_height + 1))
    left = np.floor(drawn[:, -1] * (width - crop_width + 1))
    boxes = np.stack([top, left, crop_height, crop_width], axis=1).astype(np.int64)
    for row in np.flatnonzero(~fits.any(axis=1)).tolist():
        boxes[row] = crop.box(height, width, drawn[row].tolist())
    return boxes


def _require_batched(recipe: ViewRecipe) -> None:
    """Refuse a recipe whose views cannot be made of whole batches. Raises :class:`UsageError`, which says why."""
    known = (RandomResizedCrop, ColorJitter, RandomGrayscale, RandomHorizontalFlip, GaussianBlur)
    for step in (*recipe.shared, *recipe.operations, *(recipe.more.steps(0) if recipe.more else ())):
        if not isinstance(step, known):
            raise UsageError(
                f"{type(step).__name__} of the view recipe {recipe.name} exists for single images only; {_INSTEAD}"
            )
    if recipe.shared or recipe.more:
        raise UsageError(
            f"views of the recipe {recipe.name} share operations, or are of two kinds, which exists for single images "
            f"only; {_INSTEAD}"
        )


def _require_theirs(drawn: Sequence[Sequence[Numbers]], count: int) -> None:
    if any(len(rows) != count for view in drawn for rows in view):
        raise ValueError(f"the draws are not those of {count} images")


@torch.no_grad()
def _view(levels: Tensor, operations: Sequence[RandomOperation], drawn: Sequence[Numbers]) -> Tensor:
    for operation, rows in zip(operations, drawn, strict=True):
        match operation:
            case RandomResizedCrop():
                boxes = crop_boxes(operation, levels.shape[2], levels.shape[3], rows)
                levels = pixels.resized_crop(levels, _there(boxes, levels), operation.size)
            case ColorJitter():
                levels = _jittered(levels, rows)
            case RandomGrayscale():
                share = _there(1 - rows[:, 0], levels)
                levels = pixels.blend(levels, pixels.grey_level(levels), share)
            case RandomHorizontalFlip():
                flipped = _there(rows[:, 0] > 0, levels)[:, None, None, None]
                levels = torch.where(flipped, levels.flip(3), levels)
            case GaussianBlur():
                levels = _blurred(levels, operation, rows)
    return levels.to(torch.uint8, memory_format=torch.channels_last)


def _jittered(levels: Tensor, drawn: Numbers) -> Tensor:
    """Each image's four adjustments in its own order: at each place of the order, all images at once.

    Brightness, contrast and saturation are blends with black, with the mean grey and with the grey image. Which image
    needs which is known before anything reaches the device, so the device is never waited for.
    """
    applied = drawn[:, 0] > 0
    orders = _ORDERS[drawn[:, 5].astype(np.int64)]
    for place in range(orders.shape[1]):
        which = np.where(applied, orders[:, place], -1)
        blended = (which >= 0) & (which != _HUE)
        factor = np.ones(len(drawn))
        factor[blended] = drawn[blended, 1 + which[blended]]
        grey = pixels.grey_level(levels)
        other = _where(which == 1, pixels.mean_level(grey), _where(which == 2, grey, torch.zeros_like(grey)))
        levels = pixels.blend(levels, other, _there(factor, levels))
        turned = np.flatnonzero(which == _HUE)
        if len(turned):
            chosen = _there(turned, levels)
            levels[chosen] = pixels.turn_hue(levels[chosen], _there(drawn[turned, 4], levels))
    return levels


def _blurred(levels: Tensor, blur: GaussianBlur, drawn: Numbers) -> Tensor:
    applied = np.flatnonzero(drawn[:, 0] > 0)
    if not len(applied):
        return levels
    chosen, sigma = _there(applied, levels), _there(drawn[applied, 1], levels)
    if blur.kernel_share is None:
        after = pixels.pil_gaussian_blur(levels[chosen], sigma, max_sigma=float(drawn[applied, 1].max()))
    else:
        after = pixels.gaussian_blur(levels[chosen], sigma, blur.taps(levels.shape[2]))
    return levels.index_copy(0, chosen, after)


def _where(mask: NDArray[np.bool_], one: Tensor, other: Tensor) -> Tensor:
    return torch.where(_there(mask, one)[:, None, None, None], one, other)


def _there(values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_], beside: Tensor) -> Tensor:
    """On the device of ``beside``, numbers with a fraction in float32."""
    tensor = torch.from_numpy(values)
    if tensor.dtype == torch.float64:
        tensor = tensor.to(torch.float32)
    if beside.is_cuda:
        return tensor.pin_memory().to(beside.device, non_blocking=True)
    return tensor.to(beside.device)
