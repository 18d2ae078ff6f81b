"""Every run of the pilot, as PLAN.md says. The runs of a pair differ in the term alone."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.runs import Planned

SEEDS = (0, 1, 2)

METHODS = {"moco": "moco-small-64", "moco-v2": "moco-v2-small-64"}
"""Names in the pilot, and recipes."""

SIZE: dict[str, object] = {
    "arch": "resnet18",
    "width": 0.5,
    "stem": "imagenet",
    "image_size": 48,
    "batch_size": 128,
    "batch_norm_groups": 4,
    "lr": 0.06,
    "weight_decay": 0.0001,
    "queue_size": 1024,
    "ema_keep": 0.996,
    "epochs": 60,
    "probe_every": 10,
    "precision": "bf16",
    "cache": True,
}

AS_PUBLISHED: dict[str, dict[str, object]] = {
    "moco": {"temperature": 0.07, "views": "moco-v1"},
    # The hidden layer of the head is as wide as the features, of which half width has 256.
    "moco-v2": {"temperature": 0.2, "views": "moco-v2", "head_hidden": 256},
}
"""tau_ins, augmentation and head as each paper has them, where the recipes for small images differ."""

PUBLISHED_TEMPERATURES = {"moco": 0.04, "moco-v2": 0.05}
"""tau_con: what P and Q are looked at with, in runs without the term too."""

SHORT_EPOCHS = 20

NOT_OF_THE_RECIPE = ("precision", "cache", "seed", "probe_every")
"""Options of a run that say how it is run."""


def recipe_fields(options: Mapping[str, object]) -> dict[str, object]:
    """Those of a run's options that its recipe has."""
    return {name: value for name, value in options.items() if name not in NOT_OF_THE_RECIPE}


def paired_name(method: str, *, with_term: bool, seed: int) -> str:
    """Of a run's folder and JSON."""
    return f"{method}{'+co2' * with_term}-seed-{seed}"


def _paired(method: str, *, with_term: bool, seed: int) -> Planned:
    options = {**SIZE, **AS_PUBLISHED[method], "seed": seed}
    return Planned(paired_name(method, with_term=with_term, seed=seed), METHODS[method] + "+co2" * with_term, options)


PAIRED = tuple(
    _paired(method, with_term=with_term, seed=seed)
    for seed in SEEDS
    for method in METHODS
    for with_term in (False, True)
)
"""Twelve runs, whole pairs first."""


def _short(name: str, **options: object) -> Planned:
    given = {**SIZE, **AS_PUBLISHED["moco"], "seed": 0, "epochs": SHORT_EPOCHS, "probe_every": 5}
    return Planned(f"short-{name}", METHODS["moco"] + "+co2" * (not name.startswith("plain")), {**given, **options})


SHORT = (
    _short("plain"),
    _short("published"),
    _short("alpha-1", consistency_weight=1.0),
    _short("alpha-3", consistency_weight=3.0),
    _short("alpha-30", consistency_weight=30.0),
    _short("tau-0.02", consistency_temperature=0.02),
    _short("tau-0.08", consistency_temperature=0.08),
    _short("ramp-5", consistency_ramp_epochs=5),
    _short("ramp-20", consistency_ramp_epochs=SHORT_EPOCHS),
    _short("plain-queue-4096", queue_size=4096),
    _short("queue-4096", queue_size=4096),
    _short("queue-8192", queue_size=8192),
)
"""Twelve short runs of MoCo, measured on the tenth of the training images that the probe keeps back."""


def best_of(short: str) -> tuple[Planned, ...]:
    """The setting of a short run at full length, a run for each seed: pairs of the plain ones.

    Args:
        short: name of the short run.

    Raises:
        ValueError: there is no such short run, or it is one without the term.
    """
    found = [planned for planned in SHORT if planned.name == short and planned.recipe.endswith("+co2")]
    if not found:
        with_term = [planned.name for planned in SHORT if planned.recipe.endswith("+co2")]
        raise ValueError(f"{short} is no short run with the term; those are {', '.join(with_term)}")
    (chosen,) = found
    shared = SHORT[0].options
    changed = {name: value for name, value in chosen.options.items() if shared.get(name) != value}
    if changed.get("consistency_ramp_epochs") == SHORT_EPOCHS:
        # A ramp over the whole run.
        changed["consistency_ramp_epochs"] = SIZE["epochs"]
    return tuple(
        Planned(best_name(short, seed=seed), chosen.recipe, {**SIZE, **AS_PUBLISHED["moco"], "seed": seed, **changed})
        for seed in SEEDS
    )


def best_name(short: str, *, seed: int) -> str:
    """Of the folder and JSON of a short run's setting at full length."""
    return f"best-{short.removeprefix('short-')}-seed-{seed}"
