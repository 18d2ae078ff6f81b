"""Learning rates as pure functions of the optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from co2ssl.errors import UsageError

ScheduleName: TypeAlias = Literal["cosine-epoch", "cosine-step", "steps"]


def learning_rate_schedule(
    name: ScheduleName,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    drop_epochs: Sequence[int] = (),
    drop_factor: float | None = 0.1,
) -> Callable[[int], float]:
    """The learning rate of every optimiser step.

    With t the epochs finished before the step (fractional for "cosine-step"), after a linear warm-up from 0 that
    rises with every step:

    * "cosine-epoch": lr / 2 (1 + cos(pi t / epochs)), constant within an epoch (MoCo v2, main_moco.py).
    * "cosine-step": the same with every step (SimCLR, Section 2.3, after 10 epochs of warm-up).
    * "steps": lr times ``drop_factor`` to the number of ``drop_epochs`` reached (MoCo: 120 and 160, 0.1).

    Both cosines run over the epochs that the warm-up leaves, so they begin at ``lr``.

    Args:
        name: one of the three.
        lr: the highest learning rate, for the whole batch.
        epochs: length of the run.
        steps_per_epoch: optimiser steps in an epoch.
        warmup_epochs: epochs of linear warm-up.
        drop_epochs: where "steps" drops, in epochs finished. The cosines do not read it.
        drop_factor: what "steps" multiplies with. The cosines do not read it.

    Returns:
        A function of the optimiser steps finished before this one, from 0.

    Raises:
        UsageError: an unknown name, or numbers that make no schedule.
    """
    if name not in get_args(ScheduleName):
        raise UsageError(f"unknown schedule {name!r}: choose one of {', '.join(get_args(ScheduleName))}")
    if epochs < 1 or steps_per_epoch < 1:
        raise UsageError(f"a schedule needs epochs and steps, got {epochs} epochs of {steps_per_epoch} steps")
    if not 0 <= warmup_epochs <= epochs:
        raise UsageError(f"warm-up of {warmup_epochs} epochs does not fit a run of {epochs}")
    if name == "steps" and drop_factor is None:
        raise UsageError('the schedule "steps" needs a drop_factor: what the learning rate is multiplied with')
    factor = 1.0 if drop_factor is None else drop_factor
    warmup_steps = warmup_epochs * steps_per_epoch
    total_steps = epochs * steps_per_epoch

    def shape(step: int) -> float:
        if name == "steps":
            return factor ** sum(step // steps_per_epoch >= epoch for epoch in drop_epochs)
        if name == "cosine-epoch":
            return _cosine(step // steps_per_epoch - warmup_epochs, epochs - warmup_epochs)
        return _cosine(step - warmup_steps, total_steps - warmup_steps)

    def learning_rate(step: int) -> float:
        return lr * (step / warmup_steps if step < warmup_steps else shape(step))

    return learning_rate


def _cosine(done: int, total: int) -> float:
    """From 1 at the start to 0 at ``total``, along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * done / total))
