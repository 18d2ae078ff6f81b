"""Settings, images and speeds made up for the tests of what is concluded from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from co2ssl.api.diagnosis.result import Pace, Setting, Together
from co2ssl.config import RunOptions, load_recipe
from co2ssl.data.inspection import Balance, Inspection, Sizes

SETTING = Setting(
    name="moco-small-32",
    recipe=load_recipe("moco-small-32").recipe,
    options=RunOptions(),
    changes=(),
    device="cpu",
    cores=4,
    workers=4,
    host_memory=16 * 10**9,
    device_memory=16 * 10**9,
    fast_bf16=False,
    refused=None,
)
CARD = replace(SETTING, device="cuda", device_memory=80 * 10**9, fast_bf16=True)


def setting(of: Setting = SETTING, *, options: dict[str, Any] | None = None, **recipe: Any) -> Setting:
    """The setting with other options, and other fields of the recipe."""
    return replace(
        of,
        options=of.options.model_copy(update=options or {}),
        recipe=of.recipe.model_copy(update=recipe),
    )


def inspection(**changed: Any) -> Inspection:
    """A thousand photographs of 500 x 400 pixels, half of them looked at."""
    values: dict[str, Any] = {
        "images": 1000,
        "looked_at": 500,
        "file_bytes": (50_000, 90_000, 500 * 50_000),
        "formats": {"JPEG": 500},
        "channels": {"RGB": 500},
        "oddities": {},
        "sizes": Sizes(
            median=(500, 400), smallest=(500, 400), largest=(500, 400), mean_pixels=200_000.0, short_side_tenth=400
        ),
        "balance": Balance(classes=2, empty=0, smallest=("a", 400), largest=("b", 600)),
        "bad": (),
        "exact_copies": (),
        "near_copies": (),
        "good": np.arange(0, 1000, 2),
    }
    return Inspection(**{**values, **changed})


def pace(rate: float) -> Pace:
    """So many images a second."""
    return Pace(images=round(10 * rate), seconds=10.0)


def together(epoch_seconds: float = 10.0, *, device_bytes: int | None = None, host_bytes: int = 10**9) -> Together:
    """An epoch of so many seconds."""
    return Together(epoch_seconds=epoch_seconds, wait_share=0.1, host_bytes=host_bytes, device_bytes=device_bytes)
