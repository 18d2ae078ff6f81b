"""Runs sides in turn, each as a process of its own, and keeps what they report."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.step.job import Job
from benchmarks.step.peers import ROOT, Peers


@dataclass(frozen=True, kw_only=True)
class Side:
    """One contender.

    Attributes:
        module: of ``benchmarks.step``, run as a script.
        job: what it is asked to do.
        package: another library, in whose environment it runs; None: in this one.
    """

    module: str
    job: Job
    package: str | None = None


def measure(sides: Mapping[str, Side], *, repeats: int, peers: Peers, cores: int) -> dict[str, Any]:
    """Every side once, then again, and so on: what disturbs one disturbs all. Median rates, and all that was reported.

    Raises:
        SystemExit: a side failed; with the end of what it printed.
    """
    pythons = {name: peers.python(side.package) if side.package else sys.executable for name, side in sides.items()}
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            report = _run(name, str(pythons[name]), side, seed=repeat, cores=cores)
            print(f"{repeat + 1}/{repeats} {name}: {report['images_per_second']} images a second", file=sys.stderr)
            reports[name].append(report)
    return {name: _summary(sides[name], those) for name, those in reports.items()}


def _run(name: str, python: str, side: Side, *, seed: int, cores: int) -> dict[str, Any]:
    command = [python, "-m", f"benchmarks.step.{side.module}", replace(side.job, seed=seed).as_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment(side, cores))
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def environment(side: Side, cores: int) -> dict[str, str]:
    """This one's, with as many threads as cores whatever the caller had set, and our package only for our own sides."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    ours["OMP_NUM_THREADS"] = str(cores)
    if side.package:
        ours.pop("PYTHONPATH", None)
    return ours


def _summary(side: Side, reports: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [report["images_per_second"] for report in reports]
    job = side.job
    return {
        "images_per_second": round(statistics.median(rates), 2),
        "all": rates,
        "precision": job.precision,
        "batch_norm": job.batch_norm,
        "batch_size": job.batch_size,
        "image_size": job.image_size,
        "warmup": job.warmup,
        "steps": job.steps,
        "reports": reports,
    }
