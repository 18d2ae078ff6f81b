"""What one side of a comparison is asked to do, and the clock it does it by. Imports nothing but the standard library:
sides run in environments of their own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one side.

    Attributes:
        method: "moco" (v2, with a queue) or "simclr".
        images: a folder of image files, or a ``.npy`` file with (N, H, W, 3) uint8, which is held in memory.
        image_size: side of a view in pixels.
        stem: of the ResNet-18, by this package's names ("imagenet" is torchvision's).
        batch_size: images in a step.
        queue_size: keys in MoCo's queue.
        batch_norm: "plain", "split" (8 groups) or, for SimCLR, "sync".
        precision: "float32" or "bf16".
        channels_last: layout of the network and its input, where the side leaves a choice.
        compile: whether the backbone goes through torch.compile, where the side leaves a choice.
        workers: processes that make views; None: what the side does on its own.
        warmup: steps before the clock starts.
        steps: steps that are timed.
        seed: of whatever is random.
    """

    method: Literal["moco", "simclr"] = "moco"
    images: str
    image_size: int
    stem: str = "imagenet"
    batch_size: int = 128
    queue_size: int = 4096
    batch_norm: Literal["plain", "split", "sync"] = "plain"
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    workers: int | None = None
    warmup: int
    steps: int
    seed: int = 0

    def as_json(self) -> str:
        """For the command line of a side."""
        return json.dumps(asdict(self))

    def images_for(self, ahead: int) -> int:
        """Images that keep the workers busy until the clock stops, where they are up to ``ahead`` batches ahead."""
        return self.batch_size * (self.warmup + self.steps + ahead)


def work_done(*, parameters: int, views: Iterable[Iterable[int]]) -> dict[str, Any]:
    """What a side says of its work, so that all can be seen to do the same.

    Args:
        parameters: numbers that are trained, of the backbone and its head.
        views: shapes (N, C, H, W) of the views of a batch, as they came to be trained on.
    """
    return {"parameters": parameters, "views": [list(shape) for shape in views]}


class Clock:
    """Counts steps; runs from the end of the last warm-up step to the end of the last timed one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ends: list[float] = []

    def tick(self) -> bool:
        """A step has ended. Whether it was the last one."""
        self._ends.append(time.perf_counter())
        return len(self._ends) >= self._job.warmup + self._job.steps

    def seconds(self) -> float:
        """How long the timed steps took."""
        first, last = self._job.warmup, self._job.warmup + self._job.steps
        if len(self._ends) < last:
            raise RuntimeError(f"only {len(self._ends)} of {last} steps were taken: there were too few images")
        return self._ends[last - 1] - self._ends[first - 1]

    def report(self) -> dict[str, Any]:
        """Images (not views) a second in the timed steps."""
        seconds = self.seconds()
        rate = self._job.steps * self._job.batch_size / seconds
        return {"images_per_second": round(rate, 2), "seconds": round(seconds, 3)}


def main(run: Callable[[Job], dict[str, Any]]) -> None:
    """What every side does when it is started: a job from the command line, a result as the last line printed."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(run(job)), flush=True)
