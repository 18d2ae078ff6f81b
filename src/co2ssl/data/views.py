"""View recipes by name: which random operations a method applies, in which order, with the published parameters."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from co2ssl.data.operations import ColorJitter, RandomResizedCrop
from co2ssl.data.published import VIEW_RECIPES, Operations
from co2ssl.data.recipe import BatchSplit, ViewRecipe, draw_views, make_views
from co2ssl.errors import UsageError

__all__ = ["VIEW_RECIPES", "BatchSplit", "ViewRecipe", "draw_views", "make_views", "view_recipe"]


def view_recipe(
    name: str, *, image_size: int | None = None, min_area: float | None = None, jitter_strength: float = 1.0
) -> ViewRecipe:
    """A recipe of :data:`VIEW_RECIPES`, with changes.

    Args:
        name: of the recipe.
        image_size: side of a view in pixels; None for the recipe's own (224, or 32 for small forms). Recipes of
            patches have one size only.
        min_area: smallest area of the random crop as a share of the image; None for the recipe's own. Of PIRL it
            changes the image, not the patches.
        jitter_strength: factor on the recipe's four amounts of colour jitter.

    Raises:
        UsageError: no such recipe, a value outside its range, or a change that the recipe has no place for.
    """
    if name not in VIEW_RECIPES:
        near = difflib.get_close_matches(name, VIEW_RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VIEW_RECIPES)}"
        raise UsageError(f"no view recipe is called {name!r}; {hint}")
    recipe = VIEW_RECIPES[name]
    if image_size is not None:
        recipe = _resized(recipe, image_size)
    if min_area is not None:
        recipe = _with_min_area(recipe, min_area)
    return recipe if jitter_strength == 1 else _with_jitter(recipe, jitter_strength)


def _resized(recipe: ViewRecipe, size: int) -> ViewRecipe:
    if size < 1:
        raise UsageError(f"image size {size} is not a number of pixels; give 1 or more")
    if size == recipe.image_size:
        return recipe
    if recipe.shared or recipe.more:
        raise UsageError(
            f"the patches of the view recipe {recipe.name} have one size ({min(recipe.sizes)} pixels, out of a larger "
            "crop); leave the image size out"
        )
    return replace(recipe, image_size=size, operations=_changed(recipe.operations, size=size))


def _with_min_area(recipe: ViewRecipe, min_area: float) -> ViewRecipe:
    if not 0 < min_area <= 1:
        raise UsageError(f"smallest crop area {min_area} is not a share of the image; give a number above 0, at most 1")
    if not any(isinstance(step, RandomResizedCrop) for step in recipe.steps(0)):
        raise UsageError(f"the view recipe {recipe.name} has no crop of random area; leave the smallest area out")
    return replace(
        recipe,
        shared=_changed(recipe.shared, min_area=min_area),
        operations=_changed(recipe.operations, min_area=min_area),
    )


def _changed(operations: Operations, **values: Any) -> Operations:
    """The operations with another random crop."""
    return tuple(replace(step, **values) if isinstance(step, RandomResizedCrop) else step for step in operations)


def _with_jitter(recipe: ViewRecipe, strength: float) -> ViewRecipe:
    if not any(isinstance(step, ColorJitter) for step in recipe.operations):
        raise UsageError(f"the view recipe {recipe.name} has no colour jitter; leave its strength out")
    return replace(
        recipe,
        operations=tuple(
            _jitter(step, strength) if isinstance(step, ColorJitter) else step for step in recipe.operations
        ),
        more=_with_jitter(recipe.more, strength) if recipe.more else None,
    )


def _jitter(jitter: ColorJitter, strength: float) -> ColorJitter:
    hue = jitter.hue * strength
    if strength < 0 or hue > 0.5:
        raise UsageError(
            f"jitter strength {strength} turns the hue by {hue:.2f}; give a strength of at least 0 "
            f"and at most {0.5 / jitter.hue:g} (half a turn)"
        )
    return replace(
        jitter,
        brightness=jitter.brightness * strength,
        contrast=jitter.contrast * strength,
        saturation=jitter.saturation * strength,
        hue=hue,
    )
