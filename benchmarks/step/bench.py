"""Speed of the training step, from images to weights: ours, the other libraries, and the network alone. On the CPU.

    python -m benchmarks.step.bench                          # all cases: one to two hours, on an idle machine
    python -m benchmarks.step.bench moco_64 --images FOLDER  # one of them, on your images (made ones by default)
    python -m benchmarks.step.bench --quick                  # two steps of small batches: whether it runs at all

Every side is a process of its own; all sides of a case run once, then again, and so on. Each case writes
``benchmarks/step/CASE.json`` with every rate measured, and ``step.png`` shows them all. The other libraries are
installed by uv into an environment each, with this package's constraints: the same torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.step.cases import CASES, Asked, Case
from benchmarks.step.images import write_photographs, write_small
from benchmarks.step.measure import measure
from benchmarks.step.peers import Peers
from benchmarks.step.plot import plot
from co2ssl.api.machine import fast_bf16

HERE = Path(__file__).parent
ON_ITS_OWN = [name for name in CASES if name != "compile"]
Result: TypeAlias = dict[str, Any]


def surroundings(arguments: list[str], cores: int) -> Result:
    """Where and when: what a number means nothing without."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE)
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.step.bench", *arguments]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "fast_bf16": fast_bf16(torch.device("cpu")),
        "cores_of_the_machine": os.cpu_count(),
        "cores": cores,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seeds": "the number of the repeat",
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all but compile")
    parser.add_argument("--images", type=Path, help="folder of image files, 6,000 or more; default: made ones, 224 px")
    parser.add_argument("--small", help="32-pixel images, such as cifar10:PATH; default: made ones")
    parser.add_argument("--compile", action="store_true", help="also the case compile, where there is a C++ compiler")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peers", type=Path, help="keep the other libraries here for the next run; default: a new one")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    for name in given.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}; there are {', '.join(CASES)}")
    if not given.cases:
        given.cases = [*ON_ITS_OWN, *(["compile"] if given.compile else [])]
    return given


def pin(cores: int) -> int:
    """Keep this process and its children on so many cores, where the system can; how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    usable = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, usable)
    return len(usable)


def run_case(case: Case, given: argparse.Namespace, folder: Path, peers: Peers, cores: int) -> Result:
    """The images, the sides, the rates, and their ratios."""
    asked = Asked(quick=given.quick, precision="bf16" if fast_bf16(torch.device("cpu")) else "float32")
    images = folder / ("small.npy" if case.in_memory else "photographs")
    count = case.images_needed(asked)
    if case.in_memory:
        write_small(images, count, spec=given.small)
    elif given.images is not None:
        images = given.images.resolve()
    else:
        write_photographs(images, count)
    sides, not_applicable = case.sides(asked, str(images))
    result = measure(sides, repeats=1 if given.quick else given.repeats, peers=peers, cores=cores)
    return {
        "images": str(given.small if case.in_memory else given.images) if _named(case, given) else "made",
        "sides": result,
        "not_applicable": not_applicable,
        "ratios": case.ratios(result),
    }


def _named(case: Case, given: argparse.Namespace) -> bool:
    return (given.small if case.in_memory else given.images) is not None


def main(arguments: list[str]) -> None:
    given = parse(arguments)
    cores = pin(given.cores)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.cases:
        with tempfile.TemporaryDirectory() as folder:
            peers = Peers(given.peers or Path(folder) / "peers")
            where = surroundings(arguments, cores)
            result = run_case(CASES[name], given, Path(folder), peers, cores)
        path = given.out / f"{name}.json"
        path.write_text(json.dumps({"case": name, **where, "result": result}, indent=1) + "\n")
        print(json.dumps({"case": name, "ratios": result["ratios"]}), flush=True)
    plot(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
