"""Configuration: recipes, what the user gave, what ``--auto`` changed, and the record of a run. Read by api and cli only."""

from co2ssl.config.library import (
    About,
    Fact,
    Origin,
    RecipeRow,
    Resolved,
    field_docs,
    load_recipe,
    recipe_facts,
    recipe_names,
    recipe_table,
    require_runnable,
)
from co2ssl.config.recipe import Recipe, RunOptions, usable_cores
from co2ssl.config.record import DataRecord, RunConfig, content_hash, read_run_config, resolve_options

__all__ = [
    "About",
    "DataRecord",
    "Fact",
    "Origin",
    "Recipe",
    "RecipeRow",
    "Resolved",
    "RunConfig",
    "RunOptions",
    "content_hash",
    "field_docs",
    "load_recipe",
    "read_run_config",
    "recipe_facts",
    "recipe_names",
    "recipe_table",
    "require_runnable",
    "resolve_options",
    "usable_cores",
]
