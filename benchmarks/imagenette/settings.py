"""MoCo on Imagenette (squashed): half-width ResNet-18, small images. The two runs differ in the term alone."""

from __future__ import annotations

from benchmarks.runs import Planned

COMMON: dict[str, object] = {
    "width": 0.5,
    "stem": "imagenet",
    "image_size": 64,
    "temperature": 0.1,
    "queue_size": 1024,
    "ema_keep": 0.998,
    "batch_size": 64,
    "batch_norm_groups": 4,
    "lr": 0.03,
    "weight_decay": 0.0001,
    "epochs": 90,
    "probe_every": 10,
    "precision": "bf16",
    "cache": True,
    "seed": 0,
}

RUNS = (
    Planned("moco", "moco-small-64", COMMON),
    # The whole alpha from the first step makes short runs collapse: it rises over the run (ours, not in the paper).
    Planned("moco+co2", "moco-small-64+co2", {**COMMON, "consistency_ramp_epochs": COMMON["epochs"]}),
)
