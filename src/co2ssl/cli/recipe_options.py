"""The options that ``pretrain`` and ``doctor`` share: every field of a recipe and of how it is run, box by box."""

from __future__ import annotations

import dataclasses

from co2ssl.cli.options import Option, model_options
from co2ssl.config import DEFAULT_RECIPE, Recipe, RunOptions, field_docs, load_recipe

BOXES = {"method": "network", "temperature": "loss", "queue_size": "memory", "views": "view", "optimizer": "training"}
"""Fields of a recipe that begin a box of the help page, and its name: their order in the recipe is by subject."""
RUN_BOX = "run"


def recipe_and_run_options(named: str) -> tuple[dict[str, Option], dict[str, str]]:
    """Options of every field, with the values of a recipe as defaults, and their boxes with what stands on top of each.

    Args:
        named: the recipe; empty for the usual one.

    Raises:
        UsageError: no such recipe.
    """
    recipe = load_recipe(named or DEFAULT_RECIPE, check=False).recipe
    options: dict[str, Option] = {}
    box = ""
    for name, option in model_options(Recipe, field_docs(Recipe), recipe.model_dump()).items():
        box = BOXES.get(name, box)
        options[name] = dataclasses.replace(option, group=box)
    options |= model_options(RunOptions, field_docs(RunOptions), RunOptions().model_dump(), group=RUN_BOX)
    about = f"Part of the recipe; the defaults are those of {named or DEFAULT_RECIPE}"
    fitted = "." if named else ", which --auto fits to the images and this machine."
    boxes = dict.fromkeys(BOXES.values(), f"{about}{fitted}")
    return options, {**boxes, RUN_BOX: "How it is run here; no part of the recipe."}
