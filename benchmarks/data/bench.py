"""Speed from images to views beside lightly's and torchvision's transforms, on one core a side; the loader and the GPU.

    python -m benchmarks.data.bench                                  # all cases, on an idle machine, on made images
    python -m benchmarks.data.bench files_224_to_64 --images FOLDER --small cifar10:PATH
    python -m benchmarks.data.bench --quick                          # a few images: whether it runs at all

Every side is a process of its own; all sides of a case run once, then again, and so on. ``loader`` is the loader's
share of a ResNet-18 step on two cores, from the cache at 96 pixels; ``device`` the views of whole batches on a GPU,
where there is one. Each case writes ``benchmarks/data/CASE.json``, and ``views.png`` shows them all. The other
libraries are installed by uv into an environment of their own, with this package's constraints: the same torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.data.cases import CASES, RATIOS, SIDES, Case, write_images
from benchmarks.data.device import on_the_device
from benchmarks.data.job import Job
from benchmarks.data.plot import plot
from benchmarks.evaluate.surroundings import surroundings, write
from benchmarks.peers import HELP, Peers
from benchmarks.sides import Report, pin, ratio, run_side
from benchmarks.step.job import Job as StepJob
from co2ssl.api.machine import fast_bf16

MODULE = "benchmarks.data.bench"
HERE = Path(__file__).parent
ALL = [*CASES, "loader", "device"]
STEP_CORES = 2
LOADER_SIZE = 96
MOST_OF_THE_STEP = 0.15


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--images", type=Path, help="folder of JPEG files, 1,024 or more, 224 px; default: made ones")
    parser.add_argument("--small", help="32-pixel images, such as cifar10:PATH; default: made ones")
    parser.add_argument("--quick", action="store_true", help="a few images, one repeat")
    parser.add_argument("--without-peers", action="store_true", help="our own sides only: installs nothing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, help=HELP)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    for name in given.cases:
        if name not in ALL:
            parser.error(f"no case {name!r}; there are {', '.join(ALL)}")
    given.cases = given.cases or ALL
    given.repeats = 1 if given.quick else given.repeats
    return given


def compare(case: Case, given: argparse.Namespace, folder: Path, peers: Peers) -> Report:
    """All sides of a case in turn: medians, every rate, ratios, and where our time goes."""
    images = folder / ("small.npy" if case.images == "in memory" else "files")
    count = case.needed(given.quick)
    write_images(case.images, images, count, photographs=given.images, small=given.small)
    names = [name for name in case.sides() if not (given.without_peers and SIDES[name][0] == "peers")]
    pythons = {name: peers.python("lightly") if SIDES[name][0] == "peers" else sys.executable for name in names}
    reports: dict[str, list[Report]] = {name: [] for name in names}
    for repeat in range(given.repeats):
        for name in names:
            job = case.job(name, images, seed=repeat, quick=given.quick)
            report = run_side(pythons[name], f"benchmarks.data.{SIDES[name][0]}", job)
            print(
                f"{repeat + 1}/{given.repeats} {name}: {report['images_per_second']} images a second", file=sys.stderr
            )
            reports[name].append(report)
    parts = reports.pop("ours, split")
    return {
        "images": case.images,
        "image_size": case.image_size,
        "count": count,
        "sides": {name: _summary(those) for name, those in reports.items()},
        "ratios": _ratios(reports, case.must_reach),
        "parts_ms": {part: statistics.median(one["parts_ms"][part] for one in parts) for part in parts[0]["parts_ms"]},
    }


def _summary(reports: list[Report]) -> Report:
    return {
        "images_per_second": statistics.median(one["images_per_second"] for one in reports),
        "cpu_ms_per_image": statistics.median(one["cpu_ms_per_image"] for one in reports),
        "reports": reports,
    }


def _ratios(reports: dict[str, list[Report]], must_reach: float) -> Report:
    rates = {name: [report["images_per_second"] for report in those] for name, those in reports.items()}
    return {
        f"{one} / {other}": ratio(rates[one], rates[other], must_reach if (one, other) == RATIOS[0] else None)
        for one, other in RATIOS
        if one in rates and other in rates
    }


def loader_share(given: argparse.Namespace, folder: Path) -> Report:
    """The cores' time for a batch of views from the cache, as a share of what two cores give to a step alone."""
    batch_size, steps = (8, 2) if given.quick else (128, 10)
    files = folder / "files"
    write_images("224 x 224", files, batch_size * steps, photographs=given.images, small=None)
    made = Job(
        side="cached",
        images=str(files),
        image_size=LOADER_SIZE,
        blur=True,
        count=batch_size * steps,
        batch_size=batch_size,
    )
    step = StepJob(
        images=str(files),
        image_size=LOADER_SIZE,
        batch_size=batch_size,
        precision="bf16" if fast_bf16(torch.device("cpu")) else "float32",
        warmup=1,
        steps=steps,
    )
    shares, ours, bare = [], [], []
    for _ in range(given.repeats):
        ours.append(run_side(sys.executable, "benchmarks.data.ours", made))
        bare.append(run_side(sys.executable, "benchmarks.step.naked", step, threads=STEP_CORES))
        step_ms = 1e3 * batch_size / bare[-1]["images_per_second"]
        shares.append(round(batch_size * ours[-1]["cpu_ms_per_image"] / (STEP_CORES * step_ms), 4))
    return {
        "image_size": LOADER_SIZE,
        "batch_size": batch_size,
        "precision": step.precision,
        "cores": STEP_CORES,
        "loader": ours,
        "step_alone": bare,
        "share": statistics.median(shares),
        "all_shares": shares,
        "at_most": MOST_OF_THE_STEP,
    }


def main(arguments: list[str]) -> None:
    given = parse(arguments)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for name in given.cases:
        pinned = pin(STEP_CORES if name == "loader" else 1) if name != "device" else None
        with tempfile.TemporaryDirectory() as temporary:
            where = {**surroundings(MODULE, arguments), "cores_of_a_side": pinned, "seeds": "the number of the repeat"}
            where["photographs"] = "made" if given.images is None else given.images.name
            if name == "loader":
                result = loader_share(given, Path(temporary))
            elif name == "device":
                result = on_the_device(quick=given.quick, repeats=given.repeats)
            else:
                result = compare(CASES[name], given, Path(temporary), Peers(given.peers or Path(temporary) / "peers"))
        if cores:
            os.sched_setaffinity(0, cores)
        write(given.out / f"{name}.json", {"case": name, **where, "result": result})
    plot(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
