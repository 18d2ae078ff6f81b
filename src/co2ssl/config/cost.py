"""Rough sums: what a training image costs in arithmetic, memory and, on a CPU, time; no more than a guide."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from co2ssl.config.recipe import Recipe
from co2ssl.cores import ROOT, memory_limit, usable_cores
from co2ssl.errors import UsageError

CPU_GMAC_PER_SECOND = 20.0
"""Thousand million multiply-adds per second and core: 24 to 34 measured (ResNet-18, 64 px), less what views cost."""
CPU_HALF_GAIN = 2.0
"""How many times as fast a CPU that computes in bfloat16 by itself does so."""
CPU_SECONDS_PER_PIXEL = 1e-8
"""Per core, to decode a JPEG and crop from it: 7 ns a pixel measured for the decoding of 12 megapixels."""
FEATURES = {"resnet10": 512, "resnet18": 512, "resnet34": 512, "resnet50": 2048}
"""Features of a backbone of width 1."""

_FORWARD_GMAC = {
    "resnet10": 0.9,
    "resnet18": 1.8,
    "resnet34": 3.7,
    "resnet50": 4.1,
}  # at 224 px, where the first stage works on 56 x 56
_ACTIVATION_MEGABYTES = {
    "resnet10": 15.0,
    "resnet18": 25.0,
    "resnet34": 38.0,
    "resnet50": 90.0,
}  # the same, float32, kept for backward
_STEM_STRIDE = {"imagenet": 4, "medium": 2, "small": 1}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run has to run on: this machine, and how many processes share it and others like it.

    Attributes:
        device: "cpu", "cuda" or "mps".
        cores: CPU cores of this machine that the run may use, all its processes together.
        memory: bytes, of one device (of the machine, for a CPU).
        fast_bf16: whether the device computes faster in bfloat16 (CUDA from compute capability 8.0, a CPU with
            instructions for it).
        processes: that train together, on all machines; with CUDA each has a card of its own.
        local_processes: those of them on this machine.
    """

    device: Literal["cpu", "cuda", "mps"]
    cores: int
    memory: int
    fast_bf16: bool = False
    processes: int = 1
    local_processes: int = 1

    @property
    def machines(self) -> int:
        """Machines that the processes are on, if all are like this one."""
        return max(1, self.processes // self.local_processes)

    @property
    def cores_in_all(self) -> int:
        """CPU cores of all machines."""
        return self.cores * self.machines

    @property
    def cores_per_process(self) -> int:
        """CPU cores that one process may use, at least 1."""
        return max(1, self.cores // self.local_processes)

    @property
    def devices(self) -> int:
        """Memories that share a global batch: a card for each process, or one for each machine where there are none."""
        return self.processes if self.device == "cuda" else self.machines


def host_memory(root: Path = ROOT) -> int:
    """Bytes of memory of this machine, or of the container or job this process is in (Linux and macOS).

    Args:
        root: the folder that holds ``proc`` and ``sys``, where limits of control groups are read.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    return memory if limit is None else min(memory, limit)


def process_counts() -> tuple[int, int]:
    """Processes that train together, and those of them on this machine: what torchrun has put into the environment.

    Reads ``WORLD_SIZE`` and ``LOCAL_WORLD_SIZE``; each is 1 where it is absent.

    Raises:
        UsageError: one of them is no number of processes.
    """
    processes, local = (_count_in_environment(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return processes, min(local, processes)


def workers_per_process() -> int:
    """Processes that one training process has make views where nobody says how many: its share of the cores, 1 or more.

    Raises:
        UsageError: the environment names no number of processes.
    """
    return max(1, usable_cores() // process_counts()[1])


def _count_in_environment(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"the environment has {name}={text!r}, which is no number of processes: start with torchrun, which sets "
            "it, or unset it."
        )
    return int(text)


def _area(recipe: Recipe) -> float:
    """Area of the first stage's maps, relative to 56 x 56."""
    return (recipe.image_size / _STEM_STRIDE[recipe.stem] / 56) ** 2


def gmac_per_image(recipe: Recipe) -> float:
    """Thousand million multiply-adds to train on one image: a backward pass is two forwards; MoCo's key has none."""
    forwards = 4 if recipe.method == "moco" else 6
    return forwards * _FORWARD_GMAC[recipe.arch] * _area(recipe) * recipe.width**2


def bytes_per_image(recipe: Recipe, *, half: bool) -> float:
    """Bytes of activations that one image of a batch keeps for the backward pass."""
    views = 1 if recipe.method == "moco" else 2
    return views * _ACTIVATION_MEGABYTES[recipe.arch] * 1e6 * _area(recipe) * recipe.width * (0.5 if half else 1.0)


def cpu_epoch_seconds(recipe: Recipe, *, num_images: int, pixels: float, cores: int, half: bool) -> float:
    """Seconds for one epoch on a CPU.

    Args:
        recipe: what is trained.
        num_images: images in an epoch.
        pixels: of a typical image file, which has to be decoded.
        cores: CPU cores that compute, on all machines.
        half: in bfloat16, on a CPU that has it.
    """
    speed = CPU_GMAC_PER_SECOND * (CPU_HALF_GAIN if half else 1.0)
    per_image = gmac_per_image(recipe) / speed + pixels * CPU_SECONDS_PER_PIXEL
    return num_images * per_image / cores


def duration(seconds: float) -> str:
    """``"40 min"``, ``"3.5 h"``, ``"2 days"``."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
