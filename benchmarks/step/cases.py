"""What is compared with what, and what each ratio must reach."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from benchmarks.step.job import Job
from benchmarks.step.measure import Side

MOST_AHEAD = 16
"""Batches that lightly's 8 documented workers may be ahead, two each; the images must last that much longer."""

Sides: TypeAlias = Mapping[str, Side]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line and the machine ask for.

    Attributes:
        quick: tiny sizes.
        precision: of our sides: what ``--auto`` would choose.
    """

    quick: bool
    precision: Literal["float32", "bf16"]

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

    def ratios(self, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Of the medians; with the range over the repeats, each side against the other's of the same repeat."""
        found = {}
        for (one, other), least in self.targets.items():
            if one in measured and other in measured:
                pairs = zip(measured[one]["all"], measured[other]["all"], strict=True)
                each = [round(left / right, 3) for left, right in pairs]
                ratio = statistics.median(measured[one]["all"]) / statistics.median(measured[other]["all"])
                found[f"{one} / {other}"] = {
                    "ratio": round(ratio, 3),
                    "range": [min(each), max(each)],
                    "must_reach": least,
                }
        return found

    def _sized(self, asked: Asked) -> Job:
        if not asked.quick:
            return self.job
        return replace(self.job, batch_size=16, queue_size=64, warmup=1, steps=2)


def _moco(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    mine = replace(job, precision=asked.precision)
    split = replace(mine, batch_norm="split")
    theirs = {"module": "lightly_moco", "package": "lightly"}
    sides = {
        "ours, plain": Side(module="ours", job=mine),
        "ours, split": Side(module="ours", job=split),
        "lightly": Side(job=replace(job, channels_last=False), **theirs),
        "lightly, channels_last": Side(job=job, **theirs),
        "naked, plain": Side(module="naked", job=mine),
        "naked, split": Side(module="naked", job=split),
    }
    if asked.bf16:
        sides["lightly, bf16 and channels_last"] = Side(job=mine, **theirs)
        return sides, {}
    reason = "this CPU has no bfloat16 arithmetic; channels_last alone, in float32, was run instead"
    return sides, {"lightly, bf16 and channels_last": reason}


def _simclr(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    mine = replace(job, precision=asked.precision)
    theirs = {"module": "lightly_train_simclr", "package": "lightly-train"}
    sides = {
        "ours": Side(module="ours", job=mine),
        "lightly-train": Side(job=job, **theirs),
        "naked": Side(module="naked", job=mine),
    }
    if asked.bf16:
        sides["lightly-train, bf16-mixed"] = Side(job=mine, **theirs)
        return sides, {}
    return sides, {"lightly-train, bf16-mixed": "this CPU has no bfloat16 arithmetic"}


def _spent(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    sides = {}
    for batch_norm in ("plain", "split"):
        mine = replace(job, precision=asked.precision, batch_norm=batch_norm)
        sides[f"ours, {batch_norm}"] = Side(module="spent", job=mine)
        sides[f"naked, {batch_norm}"] = Side(module="naked", job=mine)
    return sides, {}


def _workers(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    mine = replace(job, precision=asked.precision)
    return {f"{count} workers": Side(module="ours", job=replace(mine, workers=count)) for count in (0, 1, 2, 3)}, {}


def _compile(job: Job, asked: Asked) -> tuple[Sides, dict[str, str]]:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return {}, {"ours, compiled": "no C++ compiler on the path"}
    mine = replace(job, precision=asked.precision)
    return {
        "ours, plain": Side(module="ours", job=mine),
        "ours, compiled": Side(module="ours", job=replace(mine, compile=True)),
    }, {}


_AT_64 = Job(images="", image_size=64, warmup=10, steps=20)
_AT_32 = Job(images="", image_size=32, stem="small", warmup=5, steps=10)
_NAKED = {("ours, plain", "naked, plain"): 0.85, ("ours, split", "naked, split"): 0.85}

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
            **_NAKED,
        },
    ),
    "moco_32": Case(
        job=_AT_32,
        in_memory=True,
        make=_moco,
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
    "spent": Case(job=_AT_64, make=_spent, targets=_NAKED),
    "workers": Case(job=_AT_64, make=_workers, targets={("2 workers", "1 workers"): None}),
    "compile": Case(job=_AT_64, make=_compile, targets={("ours, compiled", "ours, plain"): None}),
}
