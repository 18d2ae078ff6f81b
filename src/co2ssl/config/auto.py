"""``--auto``: fits a recipe to the images and the machine at hand, and says what it changed and why.

Options that the user gave are never touched; nor are alpha, tau_con and tau_ins, whoever set them.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from co2ssl.config.cost import Machine
from co2ssl.config.draft import Change, Draft, show
from co2ssl.config.library import Origin, Resolved, require_runnable, require_shared
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

    def as_plain(self) -> dict[str, Any]:
        """What was changed, in what JSON has: for one process to tell the others (:func:`adapted_from_plain`)."""
        why = {name: origin.why for name, origin in self.resolved.origins.items() if origin.kind == "auto"}
        recipe, options = self.resolved.recipe.model_dump(mode="json"), self.options.model_dump(mode="json")
        return {
            "recipe": {name: recipe[name] for name in why},
            "options": {name: options[name] for name in self.option_origins},
            "why": why | {name: origin.why for name, origin in self.option_origins.items()},
            "changes": [asdict(change) for change in self.changes],
            "estimated_seconds": self.estimated_seconds,
        }


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
        machine: what it runs on. Processes on unlike machines come to unlike recipes: let one of them decide.
        given_options: fields of the options that the user fixed.

    Raises:
        UsageError: too few images, or what the user gave cannot run together, on so many processes.
    """
    if num_images < MIN_IMAGES:
        raise UsageError(
            f"{num_images} images are too few to learn from: contrast needs others to compare with, "
            f"at least {MIN_IMAGES}."
        )
    if num_images < 2 * machine.processes:
        raise UsageError(
            f"{num_images} images are too few for {machine.processes} processes, each of which needs two in a batch: "
            f"start {num_images // 2} processes at most."
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
    require_shared(recipe, machine.processes)
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


def adapted_from_plain(plain: Mapping[str, Any], resolved: Resolved, options: RunOptions) -> Adapted:
    """What another process came to, from its ``Adapted.as_plain``, which may have been JSON in between.

    Args:
        plain: the other's changes.
        resolved: what both gave to ``adapt``.
        options: likewise.

    Raises:
        UsageError: a field or a value that there is not: the other has another version of this package.
    """
    origins = {name: Origin(kind="auto", why=why) for name, why in plain["why"].items()}
    return Adapted(
        resolved=resolved.changed(plain["recipe"], {name: origins[name] for name in plain["recipe"]}),
        options=validated(RunOptions, {**options.model_dump(), **plain["options"]}),
        option_origins={name: origins[name] for name in plain["options"]},
        changes=tuple(Change(**{name: _tupled(value) for name, value in one.items()}) for one in plain["changes"]),
        estimated_seconds=plain["estimated_seconds"],
    )


def require_enough(recipe: Recipe, num_images: int) -> None:
    """Refuses fewer images than a batch, or fewer batches than a step takes.

    Raises:
        UsageError: says what to give instead.
    """
    if num_images < recipe.batch_size:
        raise UsageError(
            f"{num_images} images are fewer than one batch of {recipe.batch_size}: "
            f"give a smaller --batch-size, or --auto, which fits the recipe to the images."
        )
    batches = num_images // recipe.batch_size
    if batches < recipe.accumulate:
        raise UsageError(
            f"a step of {recipe.accumulate} batches does not fit into an epoch of {batches} ({num_images} images in "
            f"batches of {recipe.batch_size}): give a smaller --accumulate or --batch-size."
        )


def _tupled(value: Any) -> Any:
    """JSON has lists where recipes have tuples."""
    return tuple(value) if isinstance(value, list) else value


def _net_changes(changes: Sequence[Change]) -> tuple[Change, ...]:
    """One change a field, from its first value to its last, for the last reason."""
    first = {change.field: change.old for change in reversed(changes)}
    last = {change.field: change for change in changes}
    return tuple(
        Change(field=name, old=first[name], new=change.new, reason=change.reason)
        for name, change in last.items()
        if change.new != first[name]
    )
