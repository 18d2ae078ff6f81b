"""Which runs of the pilot are compared with which, and by how much they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pilot.paired import PairedDifference, paired_difference
from benchmarks.pilot.settings import METHODS, SEEDS, SHORT, best_name, paired_name

Results = Mapping[str, dict[str, Any]]
"""By the name of the run."""
Pull = Mapping[str, Sequence[Mapping[str, float]]]
"""What ``pull.json`` holds: by the name of the run, the means over its first steps."""


def comparisons(results: Results) -> dict[str, list[tuple[str, str]]]:
    """What is compared: title to the names of the run with the term and of the one without, seed by seed."""
    made = {
        method: [
            (paired_name(method, with_term=True, seed=seed), paired_name(method, with_term=False, seed=seed))
            for seed in SEEDS
        ]
        for method in METHODS
    }
    for planned in SHORT:
        names = [best_name(planned.name, seed=seed) for seed in SEEDS]
        if any(name in results for name in names):
            plain = [paired_name("moco", with_term=False, seed=seed) for seed in SEEDS]
            made[f"moco, {planned.name.removeprefix('short-')}"] = list(zip(names, plain, strict=True))
    return made


def differences(results: Results, pairs: Sequence[tuple[str, str]], measure: str) -> PairedDifference | None:
    """With minus without the term, in points, over the seeds for which both runs are there."""
    there = [(results[one][measure], results[other][measure]) for one, other in pairs if {one, other} <= results.keys()]
    return paired_difference([100 * (with_term["top1"] - without["top1"]) for with_term, without in there])
