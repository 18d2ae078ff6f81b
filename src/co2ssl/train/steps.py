"""From the loader's batches to optimiser steps of one or more of them."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Sized
from typing import Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from co2ssl.data.batch import Batch
from co2ssl.errors import UsageError
from co2ssl.methods.method import Method


class Batches(Protocol):
    """What the loop needs of a loader (``co2ssl.data.loader.Loader``)."""

    @property
    def source(self) -> Sized:
        """The images."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """This process's rows of the batches of an epoch: a pure function of ``epoch``, from ``first_step`` on."""


def optimiser_steps(batches: Iterator[Batch], accumulate: int) -> Iterator[tuple[list[Batch], float]]:
    """The micro-batches of each optimiser step, and the seconds spent waiting for them.

    What is left of an epoch after its last whole step is dropped.
    """
    while True:
        asked = time.perf_counter()
        together = list(itertools.islice(batches, accumulate))
        if len(together) < accumulate:
            return
        yield together, time.perf_counter() - asked


def check_steps(method: Method, loader: Batches, *, accumulate: int) -> None:
    """Refuse a number of micro-batches that the method or the data cannot have.

    Raises:
        UsageError: it changes what the method computes, or an epoch has fewer batches.
    """
    if accumulate > 1 and method.in_batch:
        raise UsageError(
            f"{type(method).__name__} takes its negatives from the batch: a step of {accumulate} small batches would "
            "compare with fewer negatives than one large batch, another loss under the same name; "
            "leave --accumulate at 1 and choose --batch-size"
        )
    if not 1 <= accumulate <= loader.steps_per_epoch:
        raise UsageError(
            f"a step of {accumulate} batches does not fit an epoch of {loader.steps_per_epoch}: "
            "lower --accumulate or --batch-size"
        )


def in_parallel(method: nn.Module) -> DistributedDataParallel:
    """The method with its gradients averaged over processes.

    Buffers stay as each process has them: large ones are equal by seed, and the running statistics of batch norm are a
    process's own.
    """
    with warnings.catch_warnings():
        # The new name of the argument is unknown to the older versions of torch that are supported.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return DistributedDataParallel(method, broadcast_buffers=False)
