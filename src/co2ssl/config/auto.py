"""``--auto``: fits a recipe to the images and the machine at hand, and says what it changed and why.

Options that the user gave are never touched; nor are alpha, tau_con and tau_ins, whoever set them.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from co2ssl.config.cost import Machine
from co2ssl.config.draft import Change, Draft, show
from co2ssl.config.library import Origin, Resolved, require_runnable
from co2ssl.config.messages import validated
from co2ssl.config.recipe import Recipe, RunOptions
from co2ssl.config.rules import RULES
from co2ssl.errors import UsageError

MIN_IMAGES = 32
"""Below this there is nothing to contrast with."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What ``adapt`` returns.

    Attributes:
        resolved: the recipe with the changed values and their reasons as origins.
        options: the run options likewise.
        option_origins: where the changed options come from, for ``RunConfig``.
        changes: every change, in the order of the reasoning.
        estimated_seconds: on a CPU, about how long the run takes; None elsewhere.
    """

    resolved: Resolved
    options: RunOptions
    option_origins: dict[str, Origin]
    changes: tuple[Change, ...]
    estimated_seconds: float | None


def adapt(
    resolved: Resolved,
    options: RunOptions,
    *,
    num_images: int,
    image_sizes: Sequence[tuple[int, int]],
    machine: Machine,
    given_options: Collection[str] = (),
) -> Adapted:
    """Fits a recipe to the data and the machine.

    Args:
        resolved: from ``load_recipe(..., check=False)``; its ``given`` fields are the user's and stay.
        options: how it would be run.
        num_images: images to learn from.
        image_sizes: (height, width) in pixels of a sample of them.
        machine: what it runs on.
        given_options: fields of the options that the user fixed.

    Raises:
        UsageError: too few images, or what the user gave cannot run together.
    """
    if num_images < MIN_IMAGES:
        raise UsageError(
            f"{num_images} images are too few to learn from: contrast needs others to compare with, "
            f"at least {MIN_IMAGES}."
        )
    draft = Draft(
        recipe=resolved.recipe,
        options=options,
        published=resolved.published,
        fixed=resolved.given | frozenset(given_options),
        machine=machine,
        num_images=num_images,
        short_side=int(statistics.median(min(size) for size in image_sizes)),
        pixels=statistics.median(height * width for height, width in image_sizes),
    )
    for rule in RULES:
        rule(draft)
    recipe = validated(Recipe, draft.recipe.model_dump())
    require_runnable(recipe)
    require_enough(recipe, num_images)
    origins = {
        change.field: Origin(kind="auto", why=f"was {show(change.old)}; {change.reason}") for change in draft.changes
    }
    in_recipe = {name: origin for name, origin in origins.items() if name in Recipe.model_fields}
    return Adapted(
        resolved=resolved.changed({name: getattr(recipe, name) for name in in_recipe}, in_recipe),
        options=draft.options,
        option_origins={name: origin for name, origin in origins.items() if name not in in_recipe},
        changes=_net_changes(draft.changes),
        estimated_seconds=recipe.epochs * draft.epoch_seconds if machine.device == "cpu" else None,
    )


def require_enough(recipe: Recipe, num_images: int) -> None:
    """Refuses fewer images than a batch.

    Raises:
        UsageError: says what to give instead.
    """
    if num_images < recipe.batch_size:
        raise UsageError(
            f"{num_images} images are fewer than one batch of {recipe.batch_size}: "
            f"give a smaller --batch-size, or --auto, which fits the recipe to the images."
        )


def _net_changes(changes: Sequence[Change]) -> tuple[Change, ...]:
    """One change a field, from its first value to its last, for the last reason."""
    first = {change.field: change.old for change in reversed(changes)}
    last = {change.field: change for change in changes}
    return tuple(
        Change(field=name, old=first[name], new=change.new, reason=change.reason)
        for name, change in last.items()
        if change.new != first[name]
    )
