"""Which recipe would be run on these images and this machine, and whether it can be: by ``pretrain``'s own rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from co2ssl.api.build import check_size
from co2ssl.api.diagnosis.result import Setting
from co2ssl.api.machine import check_precision, describe_machine, fast_bf16, sample_sizes
from co2ssl.config import (
    DEFAULT_RECIPE,
    RunOptions,
    adapt,
    host_memory,
    load_recipe,
    usable_cores,
)
from co2ssl.data.sources import Source
from co2ssl.errors import UsageError


def fit(
    recipe: str | None,
    recipe_values: Mapping[str, Any],
    options: RunOptions,
    source: Source,
    device: torch.device,
    *,
    auto: bool,
    given_options: frozenset[str],
) -> Setting:
    """The setting that ``pretrain`` would train with; where it would refuse these images, the recipe as it is, and why.

    Raises:
        UsageError: what was given is no recipe, or cannot run on this machine.
    """
    resolved = load_recipe(recipe or DEFAULT_RECIPE, overrides=recipe_values, check=not auto)
    machine = describe_machine(device)
    changes: tuple[str, ...] = ()
    refused = None
    try:
        if auto:
            adapted = adapt(
                resolved,
                options,
                num_images=len(source),
                image_sizes=sample_sizes(source),
                machine=machine,
                given_options=given_options,
            )
            resolved, options, changes = adapted.resolved, adapted.options, tuple(map(str, adapted.changes))
        check_size(resolved.recipe, source)
    except UsageError as error:
        refused = f"pretrain would refuse: {error}"
    check_precision(options, device)
    return Setting(
        name=resolved.name,
        recipe=resolved.recipe,
        options=options,
        changes=changes,
        device=device.type,
        cores=machine.cores,
        workers=usable_cores() if options.workers is None else options.workers,
        host_memory=host_memory(),
        device_memory=machine.memory,
        fast_bf16=fast_bf16(device),
        refused=refused,
    )
