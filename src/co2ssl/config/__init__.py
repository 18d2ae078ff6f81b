"""Configuration: recipes, the user's options, what ``--auto`` changes, the record of a run. For api and cli only."""

from co2ssl.config.auto import Adapted, adapt, adapted_from_plain, require_enough
from co2ssl.config.cost import Machine, duration, host_memory, process_counts, workers_per_process
from co2ssl.config.draft import Change
from co2ssl.config.library import (
    DEFAULT_RECIPE,
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
    require_shared,
)
from co2ssl.config.recipe import Recipe, RunOptions, complaints
from co2ssl.config.record import DataRecord, RunConfig, content_hash, read_run_config, resolve_options
from co2ssl.cores import usable_cores

__all__ = [
    "DEFAULT_RECIPE",
    "About",
    "Adapted",
    "Change",
    "DataRecord",
    "Fact",
    "Machine",
    "Origin",
    "Recipe",
    "RecipeRow",
    "Resolved",
    "RunConfig",
    "RunOptions",
    "adapt",
    "adapted_from_plain",
    "complaints",
    "content_hash",
    "duration",
    "field_docs",
    "host_memory",
    "load_recipe",
    "process_counts",
    "read_run_config",
    "recipe_facts",
    "recipe_names",
    "recipe_table",
    "require_enough",
    "require_runnable",
    "require_shared",
    "resolve_options",
    "usable_cores",
    "workers_per_process",
]
