"""What one side of the comparison is asked to do, and the clock it does it by.

Imports nothing but the standard library: the other libraries' sides run in an environment of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one side.

    Attributes:
        side: its name: a key of the module's ``SIDES``.
        images: a folder of JPEG files, or a ``.npy`` file of (N, H, W, 3) uint8, which is held in memory.
        image_size: side of a view in pixels.
        blur: whether the recipe has its blur; at 32 pixels it has none.
        count: images that are timed, after one batch that is not; a multiple of ``batch_size``.
        batch_size: images that are made at once, where a side does that.
        seed: of whatever is random.
    """

    side: str
    images: str
    image_size: int
    blur: bool
    count: int
    batch_size: int = 128
    seed: int = 0

    def as_json(self) -> str:
        """For the command line of a side."""
        return json.dumps(asdict(self))


def timed(job: Job, work: Callable[[int], None]) -> dict[str, float]:
    """Time of ``work(count)``, as many images, by the wall and by this process's use of its core."""
    work(job.batch_size)
    wall, cpu = time.perf_counter(), time.process_time()
    work(job.count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "images_per_second": round(job.count / wall, 2),
        "cpu_ms_per_image": round(1e3 * cpu / job.count, 4),
    }


def main(sides: Mapping[str, Callable[[Job], dict[str, Any]]]) -> None:
    """What a side does when it is started: a job from the command line, a result as the last line printed."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(sides[job.side](job)), flush=True)
