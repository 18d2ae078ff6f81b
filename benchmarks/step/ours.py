"""This package's side: ``co2ssl.pretrain``, from images to a written backbone, timed by the run's own metrics.

A side of ``benchmarks.step.bench``; alone: ``python -m benchmarks.step.ours JOB``.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step.job import Job, main, work_done
from co2ssl.api import pretrain
from co2ssl.cli.process import keep_freed_memory
from co2ssl.config import load_recipe, usable_cores
from co2ssl.data.batch import Batch
from co2ssl.data.sources import ArraySource, Source, Subset, open_source
from co2ssl.data.workers import PREFETCHED_BATCHES


def run(job: Job) -> dict[str, Any]:
    """Train one epoch that is a little longer than the timed steps, and read what the run logged of them."""
    keep_freed_memory()  # As the command does.
    workers = usable_cores() if job.workers is None else job.workers
    source = source_of(job, workers)
    with tempfile.TemporaryDirectory() as folder, first_views() as shapes:
        out = Path(folder) / "run"
        started = time.perf_counter()
        pretrain(source, out=out, recipe=recipe_name(job), auto=False, **overrides(job, workers))
        whole = time.perf_counter() - started
        lines = (out / "metrics.jsonl").read_text().splitlines()
        work = work_done(parameters=trained(out), views=shapes)
    events = [event for event in map(json.loads, lines) if event["event"] == "train"]
    return {
        **timed(job, events),
        **work,
        "whole_run_seconds": round(whole, 1),
        "log_every": log_every(job),
        "workers": workers,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def timed(job: Job, events: list[dict[str, float]]) -> dict[str, float]:
    """Images a second between the logged steps ``warmup`` and ``warmup + steps``, by the ``seconds`` of the log.

    They hold everything but checkpoints and probes: waiting for data, the step, logging.
    """
    at = {event["step"]: event for event in events}
    first, last = at[job.warmup], at[job.warmup + job.steps]
    seconds = last["seconds"] - first["seconds"]
    window = [event["wait_share"] for step, event in at.items() if job.warmup < step <= job.warmup + job.steps]
    return {
        "images_per_second": round(job.steps * job.batch_size / seconds, 2),
        "seconds": round(seconds, 3),
        "wait_share": round(sum(window) / len(window), 4),
        # What the first steps cost beyond as many ordinary ones.
        "start_seconds": round(first["seconds"] - seconds * job.warmup / job.steps, 2),
    }


@contextmanager
def first_views() -> Iterator[list[torch.Size]]:
    """The shapes of the views of the first batch that is trained on, once there was one."""
    original = Batch.to
    shapes: list[torch.Size] = []

    def noted(batch: Batch, *given: Any, **named: Any) -> Batch:
        shapes[:] = shapes or [view.shape for view in batch.views]
        return original(batch, *given, **named)

    setattr(Batch, "to", noted)  # noqa: B010
    try:
        yield shapes
    finally:
        setattr(Batch, "to", original)  # noqa: B010


def trained(run: Path) -> int:
    """Numbers that training moves, of the encoder in a run's last checkpoint: all but batch norm's statistics."""
    last = max((run / "checkpoints").glob("*.ckpt"))
    tensors = torch.load(last, weights_only=True)["method"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    names = [name for name in tensors if name.startswith("encoder.") and not name.endswith(statistics)]
    return sum(tensors[name].numel() for name in names)


def source_of(job: Job, workers: int) -> Source:
    """As many images as keep the workers busy until the timed steps are over."""
    count = job.images_for(ahead=PREFETCHED_BATCHES * workers)
    if job.images.endswith(".npy"):
        return ArraySource("images in memory", np.load(job.images)[:count], None, None)
    source = open_source(job.images)
    return Subset(source, np.linspace(0, len(source) - 1, count).astype(np.int64))


def recipe_name(job: Job) -> str:
    """The published recipe; for small images the form without blur, which the other side leaves out too."""
    if job.method == "simclr":
        return "simclr"
    return "moco-v2" if job.image_size > 32 else "moco-v2-small-32"


def overrides(job: Job, workers: int) -> dict[str, Any]:
    """What differs from the recipe, and how it is run."""
    return {
        **recipe_overrides(job),
        "precision": job.precision,
        "compile": job.compile,
        "workers": workers,
        "device": "cpu",
        "probe_every": 0,
        "log_every": log_every(job),
        "seed": job.seed,
    }


def recipe_overrides(job: Job) -> dict[str, Any]:
    """ResNet-18 at this size and batch; for MoCo the queue, for SimCLR the published rule's learning rate at once."""
    values: dict[str, Any] = {
        "arch": "resnet18",
        "stem": job.stem,
        "image_size": job.image_size,
        "batch_size": job.batch_size,
        "batch_norm": job.batch_norm,
        "epochs": 1,
    }
    if job.method == "simclr":
        # SimCLR's lr = 0.3 x batch / 256: the recipe's, of a batch of 4,096, is no rate for this one.
        return {**values, "warmup_epochs": 0, "lr": 0.3 * job.batch_size / 256}
    return {**values, "head_hidden": 512, "queue_size": job.queue_size}


def recipe_of(job: Job) -> Any:
    """The resolved recipe, for the sides that build the network alone."""
    return load_recipe(recipe_name(job), overrides=recipe_overrides(job)).recipe


def log_every(job: Job) -> int:
    """The default, 10, where both marks fall on it; else the most steps that do."""
    return math.gcd(job.warmup, job.steps, 10)


if __name__ == "__main__":
    main(run)
