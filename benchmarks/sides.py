"""Comparisons whose sides are processes of their own: how one is started, kept to its cores, set against another."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from co2ssl.cli.process import WAITING

ROOT = Path(__file__).parents[1]

AS_THE_COMMAND: Mapping[str, str] = WAITING
"""What ``co2ssl`` sets before torch is imported: a side that stands for the command runs with it."""

Report: TypeAlias = dict[str, Any]


class Asked(Protocol):
    """What a side is asked to do."""

    def as_json(self) -> str:
        """For its command line."""
        ...


def pin(cores: int) -> int:
    """Keep this process and its children on so many cores, where the system can; how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    usable = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, usable)
    return len(usable)


def run_side(
    python: Path | str, module: str, job: Asked, *, threads: int = 1, variables: Mapping[str, str] | None = None
) -> Report:
    """What a side reports: the last line that it prints.

    Args:
        python: the interpreter; another one than this is another library's.
        module: run as a script, from the root of the repository.
        job: what it is asked to do.
        threads: of its arithmetic, whatever the caller's environment had set.
        variables: of its environment, besides.

    Raises:
        SystemExit: it failed; with the end of what it printed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    if str(python) != sys.executable:
        kept.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), "-m", module, job.as_json()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**kept, **(variables or {}), "OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        raise SystemExit(f"{module} failed: {(done.stderr or done.stdout)[-3000:]}")
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


def ratio(one: Sequence[float], other: Sequence[float], must_reach: float | None) -> Report:
    """Of two sides' rates, one a round: that of the medians, and the range over pairs of the same round."""
    each = [round(mine / theirs, 3) for mine, theirs in zip(one, other, strict=True)]
    found = statistics.median(one) / statistics.median(other)
    said = {"ratio": round(found, 3), "range": [min(each), max(each)], "must_reach": must_reach}
    return said if must_reach is None else {**said, "reached": found >= must_reach}
