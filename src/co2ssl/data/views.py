"""View recipes: which random operations a method applies, in which order, with the published parameters.

What is drawn for a view is a pure function of (seed, epoch, image index, view): see :mod:`co2ssl.data.hashing`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from co2ssl.data import hashing
from co2ssl.data.operations import (
    ColorJitter,
    GaussianBlur,
    Numbers,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomOperation,
    RandomResizedCrop,
)
from co2ssl.data.pixels import Image
from co2ssl.errors import UsageError

# Published image size, and the one small forms have unless told otherwise (CIFAR's).
IMAGE_SIZE = 224
SMALL_IMAGE_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """An ordered list of random operations that makes views of an image.

    Attributes:
        name: as in :data:`VIEW_RECIPES`.
        image_size: side of a view in pixels.
        operations: applied first to last.
        num_views: views per image, drawn independently of each other.
    """

    name: str
    image_size: int
    operations: tuple[RandomOperation, ...]
    num_views: int = 2

    def draw(self, *, seed: int, epoch: int, index: NDArray[np.int64], view: int) -> tuple[Numbers, ...]:
        """Drawn parameters of one view of the images ``index`` (N,): for each operation (N, len(columns))."""
        counts = [operation.draws for operation in self.operations]
        uniform = hashing.uniform(seed, epoch=epoch, index=index, view=view, draws=sum(counts))
        parts = np.split(uniform, np.cumsum(counts)[:-1], axis=1)
        return tuple(operation.parameters(part) for operation, part in zip(self.operations, parts, strict=True))

    def apply(self, image: Image, drawn: Sequence[Sequence[float]]) -> Image:
        """One view (image_size, image_size, 3) uint8 of an image (H, W, 3) uint8, with one row of each drawn array."""
        for operation, parameters in zip(self.operations, drawn, strict=True):
            image = operation.apply(image, parameters)
        return image


def make_views(image: Image, recipe: ViewRecipe, *, seed: int, epoch: int, index: int) -> tuple[Image, ...]:
    """All views of one image (H, W, 3) uint8, each (image_size, image_size, 3) uint8.

    Args:
        image: RGB; not changed.
        recipe: what to apply.
        seed: of the run.
        epoch: epochs finished before.
        index: the image's place in the data set.
    """
    where = np.array([index])
    views = []
    for view in range(recipe.num_views):
        drawn = recipe.draw(seed=seed, epoch=epoch, index=where, view=view)
        views.append(recipe.apply(image, [parameters[0].tolist() for parameters in drawn]))
    return tuple(views)


def view_recipe(
    name: str, *, image_size: int | None = None, min_area: float | None = None, jitter_strength: float = 1.0
) -> ViewRecipe:
    """A recipe of :data:`VIEW_RECIPES`, with changes.

    Args:
        name: of the recipe.
        image_size: side of a view in pixels; None for the recipe's own (224, or 32 for small forms).
        min_area: smallest area of the random crop as a share of the image; None for the recipe's own.
        jitter_strength: factor on the recipe's four amounts of colour jitter.

    Raises:
        UsageError: no such recipe, or a value outside its range.
    """
    if name not in VIEW_RECIPES:
        near = difflib.get_close_matches(name, VIEW_RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VIEW_RECIPES)}"
        raise UsageError(f"no view recipe is called {name!r}; {hint}")
    recipe = VIEW_RECIPES[name]
    size = recipe.image_size if image_size is None else image_size
    if size < 1:
        raise UsageError(f"image size {size} is not a number of pixels; give 1 or more")
    if min_area is not None and not 0 < min_area <= 1:
        raise UsageError(f"smallest crop area {min_area} is not a share of the image; give a number above 0, at most 1")
    changed = tuple(_change(operation, size, min_area, jitter_strength) for operation in recipe.operations)
    return replace(recipe, image_size=size, operations=changed)


def _change(
    operation: RandomOperation, image_size: int, min_area: float | None, jitter_strength: float
) -> RandomOperation:
    if isinstance(operation, RandomResizedCrop):
        return replace(operation, size=image_size, min_area=operation.min_area if min_area is None else min_area)
    if isinstance(operation, ColorJitter):
        hue = operation.hue * jitter_strength
        if jitter_strength < 0 or hue > 0.5:
            raise UsageError(
                f"jitter strength {jitter_strength} turns the hue by {hue:.2f}; give a strength of at least 0 "
                f"and at most {0.5 / operation.hue:g} (half a turn)"
            )
        return replace(
            operation,
            brightness=operation.brightness * jitter_strength,
            contrast=operation.contrast * jitter_strength,
            saturation=operation.saturation * jitter_strength,
            hue=hue,
        )
    return operation


def _moco_v1(size: int) -> tuple[RandomOperation, ...]:
    """MoCo v1 (He et al. 2020), facebookresearch/moco main_moco.py without --aug-plus."""
    return (
        RandomResizedCrop(size=size, min_area=0.2),
        RandomGrayscale(probability=0.2),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        RandomHorizontalFlip(),
    )


def _moco_v2(size: int) -> tuple[RandomOperation, ...]:
    """MoCo v2 (Chen et al. 2020), facebookresearch/moco main_moco.py with --aug-plus."""
    return (
        RandomResizedCrop(size=size, min_area=0.2),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        RandomGrayscale(probability=0.2),
        GaussianBlur(min_sigma=0.1, max_sigma=2.0, probability=0.5),
        RandomHorizontalFlip(),
    )


def _simclr(size: int) -> tuple[RandomOperation, ...]:
    """SimCLR (Chen et al. 2020), appendix A, colour strength 1; google-research/simclr data_util.py."""
    return (
        RandomResizedCrop(size=size, min_area=0.08),
        RandomHorizontalFlip(),
        ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8),
        RandomGrayscale(probability=0.2),
        GaussianBlur(min_sigma=0.1, max_sigma=2.0, probability=0.5, kernel_share=0.1),
    )


def _simclr_cifar(size: int) -> tuple[RandomOperation, ...]:
    """SimCLR on CIFAR-10, appendix B.9: colour strength 0.5 and no blur."""
    return (
        RandomResizedCrop(size=size, min_area=0.08),
        RandomHorizontalFlip(),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
        RandomGrayscale(probability=0.2),
    )


def _without_blur(operations: tuple[RandomOperation, ...]) -> tuple[RandomOperation, ...]:
    return tuple(operation for operation in operations if not isinstance(operation, GaussianBlur))


def _recipe(name: str, size: int, operations: tuple[RandomOperation, ...]) -> ViewRecipe:
    return ViewRecipe(name=name, image_size=size, operations=operations)


# The published recipes, and small forms (32 to 96 px) without blur. moco-v1-small and moco-v2-small are ours: the
# papers have no small images. simclr-small is SimCLR's own for CIFAR-10.
VIEW_RECIPES: dict[str, ViewRecipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("moco-v1", IMAGE_SIZE, _moco_v1(IMAGE_SIZE)),
        _recipe("moco-v2", IMAGE_SIZE, _moco_v2(IMAGE_SIZE)),
        _recipe("simclr", IMAGE_SIZE, _simclr(IMAGE_SIZE)),
        _recipe("moco-v1-small", SMALL_IMAGE_SIZE, _moco_v1(SMALL_IMAGE_SIZE)),
        _recipe("moco-v2-small", SMALL_IMAGE_SIZE, _without_blur(_moco_v2(SMALL_IMAGE_SIZE))),
        _recipe("simclr-small", SMALL_IMAGE_SIZE, _simclr_cifar(SMALL_IMAGE_SIZE)),
    )
}
