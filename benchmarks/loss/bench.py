"""Speed and memory of the loss, against the textbook: forward plus backward, D = 128, both terms.

    python -m benchmarks.loss.bench                 # all CPU cases: about half an hour, on an idle machine
    python -m benchmarks.loss.bench queue simclr    # some of them
    python -m benchmarks.loss.bench --quick         # tiny sizes: whether it runs at all

Each case writes ``benchmarks/loss/CASE.json`` with every time taken, and ``loss.png`` shows them all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.loss.cases import KINDS, Sizes
from benchmarks.loss.measure import extra_memory_mib, interleaved, memory_under_load
from benchmarks.loss.peer import time_lightly
from benchmarks.loss.plot import plot

HERE = Path(__file__).parent
Result: TypeAlias = dict[str, Any]


class Bench:
    """Settings of one run."""

    def __init__(self, *, quick: bool, repeats: int, threads: int) -> None:
        self.quick, self.repeats, self.threads = quick, repeats, threads

    def compare(self, kind: str, sizes: Sizes, *, skip: tuple[str, ...] = (), memory: bool = True) -> Result:
        """Times of all contenders, interleaved, and the extra peak memory of each."""
        if self.quick:
            sizes = Sizes(
                min(sizes.rows, 32), min(sizes.negatives, 2048), min(sizes.draws, 64), sizes.dtype, sizes.device
            )
        runs = {name: run for name, run in KINDS[kind](sizes).items() if name not in skip}
        timings = interleaved(runs, 1 if self.quick else self.repeats, device=sizes.device)
        result: Result = {
            "kind": kind,
            "rows": sizes.rows,
            "negatives": sizes.negatives,
            "draws": sizes.draws,
            "dtype": str(sizes.dtype).removeprefix("torch."),
            "contenders": {name: timing.as_json() for name, timing in timings.items()},
        }
        for name in runs if memory else ():
            if name != "bare products":
                extra = extra_memory_mib(kind, sizes, name, threads=self.threads)
                result["contenders"][name]["extra_mib"] = round(extra, 1)
        result["ratios_to_textbook"] = ratios(result)
        print(json.dumps({key: value for key, value in result.items() if key != "contenders"}), flush=True)
        return result


def ratios(result: Result) -> dict[str, dict[str, float]]:
    """Each contender's time and extra memory as shares of the textbook's."""
    contenders = result["contenders"]
    if "textbook" not in contenders:
        return {}
    shares: dict[str, dict[str, float]] = {}
    for name, numbers in contenders.items():
        shares[name] = {"time": round(numbers["median_ms"] / contenders["textbook"]["median_ms"], 4)}
        if "extra_mib" in numbers and contenders["textbook"]["extra_mib"] > 0:
            shares[name]["memory"] = round(numbers["extra_mib"] / contenders["textbook"]["extra_mib"], 4)
    return shares


def queue(bench: Bench) -> Result:
    """MoCo's size. At most 1/3.5 of the time, 1.3 times the bare products, 1/10 of the extra memory."""
    result = bench.compare("queue", Sizes(256, 65536))
    contenders = result["contenders"]
    result["times_the_bare_products"] = round(
        contenders["blocked"]["median_ms"] / contenders["bare products"]["median_ms"], 3
    )
    return result


def under_load(bench: Bench) -> Result:
    """The same while another process streams memory: reported."""
    with memory_under_load():
        return bench.compare("queue", Sizes(256, 65536), memory=False)


def batch_sizes(bench: Bench) -> list[Result]:
    """N from 64 to 1,024. At most 1/3 of the time."""
    return [bench.compare("queue", Sizes(rows, 65536), memory=False) for rows in (64, 128, 256, 512, 1024)]


def queue_sizes(bench: Bench) -> Result:
    """K from 4,096 to 1,048,576. Time linear in K (log-log slope at most 1.1), extra memory flat."""
    results = []
    for negatives in (4096, 16384, 65536, 262144, 1048576):
        # The textbook's dozen N x K matrices would take 12 GB at the largest.
        skip = ("textbook",) if negatives > 262144 else ()
        results.append(bench.compare("queue", Sizes(256, negatives), skip=skip))
    points = [(math.log(one["negatives"]), math.log(one["contenders"]["blocked"]["median_ms"])) for one in results]
    return {"sizes": results, "log_log_slope": None if bench.quick else round(slope(points), 3)}


def slope(points: list[tuple[float, float]]) -> float:
    """Of the least-squares line."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def simclr(bench: Bench) -> Result:
    """2N = 8,192 crops. At most 1/2 of the time, 1/8 of the extra memory."""
    return bench.compare("simclr", Sizes(8192, 8192))


def draws(bench: Bench) -> Result:
    """InsDisc. No slower than gather-then-einsum, at most 1/5 of its extra memory."""
    return bench.compare("draws", Sizes(256, 1_281_167, 4096))


def gpu(bench: Bench) -> list[Result]:
    """Triton: at most 1/2 of the compiled textbook's time in bfloat16, at most 1/10 of its memory in float32."""
    if not torch.cuda.is_available():
        raise SystemExit("the gpu case needs a CUDA device")
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        for rows in (256, 4096):
            sizes = Sizes(rows, 65536, dtype=dtype, device="cuda")
            result = bench.compare("queue", sizes)
            # Two products for the values, three with the gradient: the least work that never stores a score.
            work = 5 * 2 * rows * 65536 * 128
            rate = work / (result["contenders"]["triton"]["median_ms"] / 1e3)
            result["share_of_the_measured_matrix_rate"] = round(rate / matrix_rate(dtype), 3)
            results.append(result)
    return results


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large square product on this card."""
    side = 8192
    left, right = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    timing = interleaved({"product": lambda: left @ right}, 10, device="cuda")["product"]
    return 2 * side**3 / (timing.median_ms / 1e3)


def lightly(bench: Bench) -> Result:
    """For orientation: NTXentLoss and CO2Regularizer with a bank (its term has no backward to time)."""
    return time_lightly(repeats=1 if bench.quick else bench.repeats, threads=bench.threads, quick=bench.quick)


CASES: dict[str, Callable[[Bench], Any]] = {
    case.__name__: case for case in (queue, under_load, batch_sizes, queue_sizes, simclr, draws, gpu, lightly)
}
ON_CPU = [name for name in CASES if name not in ("gpu", "lightly")]


def surroundings(arguments: list[str]) -> Result:
    """Where and when: what a number means nothing without."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE)
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.loss.bench", *arguments]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seeds": "1 to 4, one a tensor",
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all that run on a CPU"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    for name in given.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}; there are {', '.join(CASES)}")
    torch.set_num_threads(given.threads)
    bench = Bench(quick=given.quick, repeats=given.repeats, threads=given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.cases or ON_CPU:
        where = surroundings(arguments)
        result = CASES[name](bench)
        (given.out / f"{name}.json").write_text(json.dumps({"case": name, **where, "result": result}, indent=1) + "\n")
    plot(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
