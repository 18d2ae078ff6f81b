"""Runs sides in turn, each as a process of its own, and sets what they report against each other."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from benchmarks.peers import Peers
from benchmarks.sides import AS_THE_COMMAND, Report, ratio, run_side
from benchmarks.step.job import Job

OURS, NAKED = "ours", "naked"
AS_COMMAND = (OURS, "spent")
"""Modules whose threads wait as the command's do. The network alone keeps the default: nothing else wants the cores."""
WORK = ("parameters", "views")
"""What all sides of a case must report alike."""


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


def measure(sides: Mapping[str, Side], *, rounds: int, peers: Peers, cores: int) -> Report:
    """Every side once, then again, and so on: what disturbs one disturbs all. Median rates, and all that was reported.

    Raises:
        SystemExit: a side failed, with the end of what it printed; or two did not do the same work.
    """
    pythons = {name: peers.python(side.package) if side.package else sys.executable for name, side in sides.items()}
    reports: dict[str, list[Report]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            report = run_side(
                pythons[name],
                f"benchmarks.step.{side.module}",
                replace(side.job, seed=number),
                threads=cores,
                variables=AS_THE_COMMAND if side.module in AS_COMMAND else None,
            )
            print(f"{number + 1}/{rounds} {name}: {report['images_per_second']} images a second", file=sys.stderr)
            reports[name].append(report)
        check_work({name: those[-1] for name, those in reports.items()})
    return {name: _summary(sides[name], those) for name, those in reports.items()}


def check_work(reports: Mapping[str, Report]) -> None:
    """All sides trained a network of one size on views of one size.

    Raises:
        SystemExit: they did not.
    """
    did = {name: {what: report[what] for what in WORK} for name, report in reports.items()}
    first = next(iter(did), None)
    for name, work in did.items():
        if work != did[str(first)]:
            raise SystemExit(f"{first!r} and {name!r} do not do the same work: {did[str(first)]} and {work}")


def ratios(measured: Report, targets: Mapping[tuple[str, str], float | None]) -> Report:
    """Of the pairs whose both sides ran."""
    return {
        f"{one} / {other}": ratio(measured[one]["all"], measured[other]["all"], least)
        for (one, other), least in targets.items()
        if one in measured and other in measured
    }


def multiples(measured: Report) -> dict[str, float]:
    """How many times as long as the network alone each step of ours takes, with the same batch norm."""
    found = {}
    for name, side in measured.items():
        alone = measured.get(name.replace(OURS, NAKED, 1))
        if name.startswith(OURS) and alone is not None:
            found[name] = round(alone["images_per_second"] / side["images_per_second"], 3)
    return found


def spent(measured: Report) -> Report:
    """Milliseconds of a step by part, medians over the rounds, of the sides that timed their parts."""
    found = {}
    for name, side in measured.items():
        reports = [report for report in side["reports"] if "parts_ms" in report]
        if reports:
            shared = ("step_ms", "network_ms", "beyond_the_network_ms", "views_core_ms")
            found[name] = {
                **{what: _median(report[what] for report in reports) for what in shared},
                "parts_ms": {
                    part: _median(report["parts_ms"].get(part, 0.0) for report in reports)
                    for part in reports[0]["parts_ms"]
                },
            }
    return found


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def _summary(side: Side, reports: list[Report]) -> Report:
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
