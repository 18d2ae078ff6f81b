"""What is compared with what, and what each ratio must reach."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from benchmarks.step.job import Job
from benchmarks.step.measure import Side

MOST_AHEAD = 16
"""Batches that lightly's 8 documented workers may be ahead, two each; the images must last that much longer."""

Sides: TypeAlias = dict[str, Side]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line and the machine ask for.

    Attributes:
        quick: tiny sizes.
        precision: of our sides: what ``--auto`` would choose.
        warmup: steps before the clock starts; None: the case's.
        steps: steps that are timed; None: the case's.
    """

    quick: bool
    precision: Literal["float32", "bf16"]
    warmup: int | None = None
    steps: int | None = None

    @property
    def bf16(self) -> bool:
        """Whether the CPU has bfloat16 arithmetic."""
        return self.precision == "bf16"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A comparison.

    Attributes:
        job: what all sides have in common.
        in_memory: images of 32 pixels in memory, not files.
        make: the sides of it, and for those that make no sense here the reason.
        targets: a ratio of two sides, and what it must reach (None: reported only).
    """

    job: Job
    in_memory: bool = False
    make: Callable[[Job, Asked], tuple[Sides, dict[str, str]]]
    targets: Mapping[tuple[str, str], float | None]

    def sides(self, asked: Asked, images: str) -> tuple[Sides, dict[str, str]]:
        """The sides that can run here, and why others do not."""
        return self.make(replace(self._sized(asked), images=images), asked)

    def images_needed(self, asked: Asked) -> int:
        """Images that every side has enough of."""
        return self._sized(asked).images_for(MOST_AHEAD)

    def _sized(self, asked: Asked) -> Job:
        job = self.job
        if asked.quick:
            job = replace(job, batch_size=16, queue_size=64, warmup=1, steps=2, workers=1)
        return replace(job, warmup=asked.warmup or job.warmup, steps=asked.steps or job.steps)


def has_compiler() -> bool:
    """Whether torch.compile finds what it needs for a CPU."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _moco(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    sides = {**_ours_and_naked(job, asked), "lightly": _lightly(replace(job, channels_last=False))}
    if asked.bf16:
        sides["lightly, bf16 and channels_last"] = _lightly(replace(job, precision="bf16"))
        return sides, {}
    sides["lightly, channels_last"] = _lightly(job)
    reason = "this CPU has no bfloat16 arithmetic; channels_last alone, in float32, was run instead"
    return sides, {"lightly, bf16 and channels_last": reason}


def _moco_small(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    return {**_ours_and_naked(job, asked), "lightly": _lightly(replace(job, channels_last=False))}, {}


def _simclr(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    mine = replace(job, precision=asked.precision)
    sides = {
        "ours": Side(module="ours", job=mine),
        "naked": Side(module="naked", job=mine),
        "lightly-train": _lightly_train(job),
    }
    if asked.bf16:
        sides["lightly-train, bf16-mixed"] = _lightly_train(mine)
        return sides, {}
    return sides, {"lightly-train, bf16-mixed": "this CPU has no bfloat16 arithmetic"}


def _spent(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    return _ours_and_naked(job, asked, module="spent"), {}


def _workers(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    mine = replace(job, precision=asked.precision)
    return {f"{count} workers": Side(module="ours", job=replace(mine, workers=count)) for count in (0, 1, 2, 3)}, {}


def _compile(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    if not has_compiler():
        return {}, {"ours, compiled": "no C++ compiler on the path"}
    mine = replace(job, precision=asked.precision)
    return {
        "ours, plain": Side(module="ours", job=mine),
        "ours, compiled": Side(module="ours", job=replace(mine, compile=True)),
    }, {}


def _ours_and_naked(job: Job, asked: Asked, *, module: str = "ours") -> Sides:
    sides: Sides = {}
    for batch_norm in ("plain", "split"):
        mine = replace(job, precision=asked.precision, batch_norm=batch_norm)
        sides[f"ours, {batch_norm}"] = Side(module=module, job=mine)
        sides[f"naked, {batch_norm}"] = Side(module="naked", job=mine)
    return sides


def _lightly(job: Job) -> Side:
    return Side(module="lightly_moco", package="lightly", job=job)


def _lightly_train(job: Job) -> Side:
    return Side(module="lightly_train_simclr", package="lightly-train", job=job)


_AT_64 = Job(images="", image_size=64, warmup=10, steps=20)
_AT_32 = Job(images="", image_size=32, stem="small", warmup=5, steps=10)
_NAKED = (("ours, plain", "naked, plain"), ("ours, split", "naked, split"))

CASES: dict[str, Case] = {
    "moco_64": Case(
        job=_AT_64,
        make=_moco,
        targets={
            ("ours, plain", "lightly"): 1.9,
            ("ours, split", "lightly"): 1.6,
            ("ours, plain", "lightly, channels_last"): 1.0,
            ("ours, plain", "lightly, bf16 and channels_last"): 1.0,
            ("naked, plain", "lightly"): None,
            ("ours, split", "ours, plain"): None,
            **dict.fromkeys(_NAKED, 0.85),
        },
    ),
    "moco_32": Case(
        job=_AT_32,
        in_memory=True,
        make=_moco_small,
        targets={
            ("ours, plain", "lightly"): None,
            ("ours, split", "lightly"): None,
            **dict.fromkeys(_NAKED, 0.9),
        },
    ),
    "simclr_64": Case(
        job=replace(_AT_64, method="simclr", batch_norm="sync"),
        make=_simclr,
        targets={
            ("ours", "lightly-train"): 1.5,
            ("ours", "lightly-train, bf16-mixed"): 1.0,
            ("ours", "naked"): None,
        },
    ),
    # Slower by its timers, so no ratio of it must reach anything.
    "spent": Case(job=_AT_64, make=_spent, targets=dict.fromkeys(_NAKED)),
    "compile": Case(job=_AT_64, make=_compile, targets={("ours, compiled", "ours, plain"): None}),
    "workers": Case(job=_AT_64, make=_workers, targets={("2 workers", "1 workers"): None}),
}

ON_REQUEST = ("workers",)
"""Run only where they are asked for: nothing is required of them."""
