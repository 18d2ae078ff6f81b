"""Rough sums: what a training image costs in arithmetic, memory and, on a CPU, time; no more than a guide."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from co2ssl.config.recipe import Recipe

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
    """What a run has to run on.

    Attributes:
        device: "cpu", "cuda" or "mps".
        cores: CPU cores this process may use.
        memory: bytes, of the device (of the machine, for a CPU).
        fast_bf16: whether the device computes faster in bfloat16 (CUDA from compute capability 8.0).
    """

    device: Literal["cpu", "cuda", "mps"]
    cores: int
    memory: int
    fast_bf16: bool = False


def usable_cores() -> int:
    """Cores that this process may use (fewer than the machine has, under taskset or in a job)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory() -> int:
    """Bytes of memory of this machine (Linux and macOS)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
        cores: CPU cores.
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
