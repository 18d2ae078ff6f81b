"""The recipe while ``--auto`` works on it: every change goes through one place, which keeps some from happening."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from co2ssl.config.cost import Machine, cpu_epoch_seconds
from co2ssl.config.recipe import Recipe, RunOptions

UNTOUCHED = frozenset({"consistency_weight", "consistency_temperature", "temperature"})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value that ``--auto`` changed, with the reason in words."""

    field: str
    old: Any
    new: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {show(self.old)} -> {show(self.new)}: {self.reason}"


@dataclass(kw_only=True)
class Draft:
    """The recipe while rules work on it. Everything that may not change is kept from changing here, in one place."""

    recipe: Recipe
    options: RunOptions
    published: Recipe
    fixed: frozenset[str]
    machine: Machine
    num_images: int
    short_side: int
    pixels: float
    changes: list[Change] = field(default_factory=list)

    def set(self, name: str, new: Any, reason: str) -> None:
        """Changes one field, unless it is the user's or must not be touched."""
        model = self.recipe if name in Recipe.model_fields else self.options
        old = getattr(model, name)
        if name in self.fixed or name in UNTOUCHED or new == old:
            return
        if name in Recipe.model_fields:
            self.recipe = self.recipe.model_copy(update={name: new})
        else:
            self.options = self.options.model_copy(update={name: new})
        self.changes.append(Change(field=name, old=old, new=new, reason=reason))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return max(1, self.num_images // self.recipe.batch_size // self.recipe.accumulate)

    @property
    def epoch_seconds(self) -> float:
        """On the CPUs of all machines."""
        return cpu_epoch_seconds(
            self.recipe,
            num_images=self.num_images,
            pixels=self.pixels,
            cores=self.machine.cores_in_all,
            half=self.options.precision == "bf16" and self.machine.fast_bf16,
        )


def show(value: Any) -> str:
    """A value as it stands in a sentence."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
