"""Time and peak memory of contenders."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.loss.cases import KINDS, Run, Sizes

MIB = 1 << 20


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of every run, in order."""

    seconds: list[float]

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(self.seconds)

    def as_json(self) -> dict[str, object]:
        rounded = [round(1e3 * one, 2) for one in self.seconds]
        return {"median_ms": round(self.median_ms, 2), "min_ms": min(rounded), "all_ms": rounded}


def interleaved(runs: Mapping[str, Run], repeats: int, *, device: str) -> dict[str, Timing]:
    """Every contender once, then again, and so on, after one warm-up each: what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            _synchronise(device)
            start = time.perf_counter()
            run()
            _synchronise(device)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(all_of) for name, all_of in seconds.items()}


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def extra_memory_mib(kind: str, sizes: Sizes, contender: str, *, threads: int) -> float:
    """Peak of a process that runs the contender once, over the peak of one that only holds the inputs, in MiB.

    On a GPU, the allocator's peak over what the inputs take.
    """
    if sizes.device != "cpu":
        runs = KINDS[kind](sizes)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        runs[contender]()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    peaks = [_peak_of_child(kind, sizes, name, threads) for name in (contender, "")]
    return (peaks[0] - peaks[1]) / MIB


def _peak_of_child(kind: str, sizes: Sizes, contender: str, threads: int) -> int:
    given = json.dumps([kind, sizes.rows, sizes.negatives, sizes.draws, contender, threads])
    command = [sys.executable, "-m", "benchmarks.loss.measure", given]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _child(given: str) -> None:
    kind, rows, negatives, draws, contender, threads = json.loads(given)
    torch.set_num_threads(threads)
    # Libraries allocate on first use: both children have used them.
    for run in KINDS[kind](Sizes(8, 64, min(draws, 8))).values():
        run()
    runs = KINDS[kind](Sizes(rows, negatives, draws))
    if contender:
        runs[contender]()
    print(peak_bytes())


def peak_bytes() -> int:
    """Resident peak of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


@contextmanager
def memory_under_load() -> Iterator[None]:
    """While another process streams through a gigabyte of memory."""
    code = """
import torch
torch.set_num_threads(1)
source, target = torch.zeros(1 << 27), torch.zeros(1 << 27)
while True:
    target.copy_(source)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(5)
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    _child(sys.argv[1])
