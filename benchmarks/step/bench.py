"""Speed of the training step, from images to weights: ours, the other libraries, and the network alone. On the CPU.

    python -m benchmarks.step.bench --images FOLDER --small cifar10:PATH   # all parts, on an idle machine
    python -m benchmarks.step.bench --only moco_64                         # one of them, on made images
    python -m benchmarks.step.bench --resume                               # what a run that was broken off left out
    python -m benchmarks.step.bench --quick                                # two steps of small batches: does it run?

Parts: ``moco_64`` and ``moco_32`` (MoCo v2 beside lightly's documented loop and the network alone), ``simclr_64``
(SimCLR beside lightly-train's command), ``spent`` (what a step of ours is spent on), ``compile`` (with torch.compile,
where there is a C++ compiler); on request ``workers``. Every side is a process of its own; all sides of a part run
once, then again, and so on. Each part writes ``benchmarks/step/PART.json`` with every rate measured, and ``step.png``
shows them all. A side that does other work than the others (images, size, network) ends the run.

Ours runs as the ``co2ssl`` command does, with its settings of OpenMP. The other libraries and the network alone keep
the defaults, and the number of threads is that of the cores for all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.evaluate.surroundings import surroundings
from benchmarks.peers import HELP, Peers
from benchmarks.sides import Report, pin
from benchmarks.step.cases import CASES, ON_REQUEST, Asked, Case
from benchmarks.step.images import write_photographs, write_small
from benchmarks.step.measure import measure, multiples, ratios, spent
from benchmarks.step.plot import plot
from co2ssl.api.machine import fast_bf16

MODULE = "benchmarks.step.bench"
HERE = Path(__file__).parent
USUAL = [name for name in CASES if name not in ON_REQUEST]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"of {', '.join(CASES)}; default: all but workers")
    parser.add_argument("--images", type=Path, help="folder of image files, 6,000 or more; default: made ones, 224 px")
    parser.add_argument("--small", help="32-pixel images, such as cifar10:PATH; default: made ones")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--rounds", type=int, default=3, help="how often every side runs")
    parser.add_argument("--warmup", type=int, help="steps before the clock starts; default: 10, at 32 pixels 5")
    parser.add_argument("--steps", type=int, help="steps that are timed; default: 20, at 32 pixels 10")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peers", type=Path, help=HELP)
    parser.add_argument(
        "--resume", action="store_true", help="leave parts alone that this commit measured the same way"
    )
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    for name in given.only or []:
        if name not in CASES:
            parser.error(f"no part {name!r}; there are {', '.join(CASES)}")
    for name in ("rounds", "warmup", "steps", "cores"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    given.only = given.only or USUAL
    given.rounds = 1 if given.quick else given.rounds
    return given


def how(given: argparse.Namespace) -> Report:
    """What the numbers depend on, of the command line."""
    named = {"images": given.images, "small": given.small}
    return {
        **{name: "made" if value is None else str(value) for name, value in named.items()},
        **{name: getattr(given, name) for name in ("quick", "rounds", "warmup", "steps", "cores")},
    }


def is_there(path: Path, *, commit: str, asked: Report) -> bool:
    """Whether a part was measured before by this commit, asked for in the same way, and written whole."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(
        found.get("commit") == commit and found.get("asked") == asked and found.get("torch") == torch.__version__
    )


def run_part(case: Case, given: argparse.Namespace, folder: Path, peers: Peers, cores: int) -> Report:
    """The images, the sides, the rates, and what follows from them."""
    asked = Asked(
        quick=given.quick,
        precision="bf16" if fast_bf16(torch.device("cpu")) else "float32",
        warmup=given.warmup,
        steps=given.steps,
    )
    images = folder / ("small.npy" if case.in_memory else "photographs")
    count = case.images_needed(asked)
    if case.in_memory:
        write_small(images, count, spec=given.small)
    elif given.images is not None:
        images = given.images.resolve()
    else:
        write_photographs(images, count)
    sides, not_applicable = case.sides(asked, str(images))
    measured = measure(sides, rounds=given.rounds, peers=peers, cores=cores)
    return {
        "sides": measured,
        "not_applicable": not_applicable,
        "ratios": ratios(measured, case.targets),
        "times_the_network": multiples(measured),
        "spent": spent(measured),
    }


def main(arguments: list[str]) -> None:
    given = parse(arguments)
    cores = pin(given.cores)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        path = given.out / f"{name}.json"
        where = {
            **surroundings(MODULE, arguments),
            "asked": how(given),
            "cores_of_a_side": cores,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "seeds": "the number of the round",
        }
        if given.resume and is_there(path, commit=where["commit"], asked=where["asked"]):
            print(f"{name}: measured before, in {path}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            peers = Peers(given.peers or Path(folder) / "peers")
            result = run_part(CASES[name], given, Path(folder), peers, cores)
        path.write_text(json.dumps({"part": name, **where, "result": result}, indent=1) + "\n")
        shown = {what: result[what] for what in ("ratios", "times_the_network", "not_applicable")}
        print(json.dumps({"part": name, **shown}), flush=True)
        plot(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
