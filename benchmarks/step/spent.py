"""What a step of ours is spent on, by timers around its parts while ``co2ssl.pretrain`` runs.

A side of ``benchmarks.step.bench``; alone: ``python -m benchmarks.step.spent JOB``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Self

import cv2
import torch
from torch import Tensor
from torch.optim import SGD

from benchmarks.step import ours
from benchmarks.step.job import Job, main
from co2ssl.api.build import build_method, build_views
from co2ssl.data.batch import Batch
from co2ssl.data.loader import Loader
from co2ssl.encoders.encoder import Encoder
from co2ssl.losses.objective import Objective
from co2ssl.memory.queue import Queue
from co2ssl.methods import moco
from co2ssl.train import loop
from co2ssl.train.progress import Progress
from co2ssl.train.state import State

NETWORK = ("query forward", "key forward", "backward", "optimiser")
"""Parts that the naked network has too (its backward pass begins at the embeddings, ours at the loss)."""


class Stopwatches:
    """Seconds by part, for each step; a part inside another counts for itself only. At the end they are taken off."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = [{}]
        self._inside: list[float] = []
        self._watched: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for owner, name, original in reversed(self._watched):
            setattr(owner, name, original)

    def watch(self, owner: Any, name: str, part: str | Callable[[], str], *, begins_step: bool = False) -> None:
        """Time every call of ``owner.name``, under a name that may depend on when it is called."""
        original = getattr(owner, name)
        self._watched.append((owner, name, original))

        @functools.wraps(original)
        def timed(*given: Any, **named: Any) -> Any:
            if begins_step:
                self.steps.append({})
            label = part if isinstance(part, str) else part()
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return original(*given, **named)
            finally:
                took = time.perf_counter() - started
                step = self.steps[-1]
                step[label] = step.get(label, 0.0) + took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        setattr(owner, name, timed)

    def mean_ms(self, first: int, last: int) -> dict[str, float]:
        """Milliseconds a step of each part, over the steps after ``first`` up to ``last``, counted from 1."""
        parts: dict[str, float] = {}
        for step in self.steps[first + 1 : last + 1]:
            for part, seconds in step.items():
                parts[part] = parts.get(part, 0.0) + 1e3 * seconds / (last - first)
        return parts


def run(job: Job) -> dict[str, Any]:
    """Milliseconds a step by part, and of one core for making the views, which workers do beside it.

    What is timed by part is slower by the timers; rates are those of ``ours``.
    """
    views = views_ms(job)
    with Stopwatches() as watches:
        watch_step(watches)
        result = ours.run(job)
    step_ms = 1e3 * result["seconds"] / job.steps
    parts = watches.mean_ms(job.warmup, job.warmup + job.steps)
    parts["waiting for data"] = step_ms * result["wait_share"]
    parts["everything else"] += step_ms - sum(parts.values())
    return {
        **result,
        "step_ms": round(step_ms, 2),
        "parts_ms": {part: round(value, 2) for part, value in sorted(parts.items(), key=lambda item: -item[1])},
        "network_ms": round(sum(parts[part] for part in NETWORK), 2),
        "beyond_the_network_ms": round(step_ms - sum(parts[part] for part in NETWORK), 2),
        "views_core_ms": round(views, 2),
    }


def watch_step(watches: Stopwatches) -> None:
    """Put a stopwatch on each part of the training step."""
    watches.watch(loop._Run, "step", "everything else", begins_step=True)
    watches.watch(Batch, "to", "bytes to floats")
    watches.watch(Encoder, "forward", _whose_forward)
    watches.watch(moco, "permuted_forward", "permuting the keys")
    watches.watch(Objective, "__call__", "loss")
    watches.watch(Tensor, "backward", "backward")
    watches.watch(loop._Run, "average_gradients", "averaging the gradients")
    watches.watch(SGD, "step", "optimiser")
    watches.watch(moco, "update_momentum", "momentum update")
    watches.watch(Queue, "enqueue", "queue")
    watches.watch(State, "count", "logging")
    watches.watch(loop._Run, "record", "logging")
    watches.watch(Progress, "advance", "logging")


def views_ms(job: Job) -> float:
    """Milliseconds of one core for the views of a batch, read from files or memory."""
    recipe = ours.recipe_of(job)
    cv2.setNumThreads(1)
    source = ours.source_of(job, workers=0)
    loader = Loader(
        source,
        build_views(recipe, build_method(recipe, seed=job.seed)),
        batch_size=job.batch_size,
        seed=job.seed,
        workers=0,
    )
    batches = loader.epoch(0)
    for _ in range(job.warmup):
        next(batches)
    started = time.perf_counter()
    for _ in range(job.steps):
        next(batches)
    return 1e3 * (time.perf_counter() - started) / job.steps


def _whose_forward() -> str:
    return "query forward" if torch.is_grad_enabled() else "key forward"


if __name__ == "__main__":
    main(run)
