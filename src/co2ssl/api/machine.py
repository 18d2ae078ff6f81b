"""What there is to run on, and what the images are like: read before anything is built."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch

from co2ssl.config import Machine, RunOptions, host_memory, usable_cores
from co2ssl.data.decoding import BadImage
from co2ssl.data.sources import Source
from co2ssl.errors import UsageError

SAMPLED_SIZES = 64
"""Images whose size ``auto`` looks at."""


def build_device(options: RunOptions) -> torch.device:
    """The device that ``device`` names; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: a device that this machine, or this build of torch, does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = options.device
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        raise UsageError(f"--device {name}: torch {torch.__version__} finds none here. Use --device cpu, or auto.")
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic.

    A CPU without AVX-512 falls back to loops: 12 to 100 times slower than float32 where it was measured.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"


def check_precision(options: RunOptions, device: torch.device) -> None:
    """Refuse a precision that the device can only imitate, far more slowly than float32.

    Raises:
        UsageError: bf16 on a device without it.
    """
    if options.precision == "bf16" and not fast_bf16(device):
        raise UsageError(
            f"--precision bf16: this {device.type} device has no bfloat16 arithmetic, and imitating it is many times "
            "slower than float32. Use --precision float32."
        )


def describe_machine(device: torch.device) -> Machine:
    """What ``--auto`` needs to know of the machine."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host_memory()
    kind = cast("Literal['cpu', 'cuda', 'mps']", device.type)
    return Machine(device=kind, cores=usable_cores(), memory=memory, fast_bf16=fast_bf16(device))


def sample_sizes(source: Source) -> list[tuple[int, int]]:
    """(height, width) of a spread sample of the images; unreadable ones are passed over, the loader names them.

    Raises:
        UsageError: none of them can be read.
    """
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED_SIZES).astype(np.int64)):
        try:
            image = source.load(int(index))
        except BadImage:
            continue
        sizes.append((image.shape[0], image.shape[1]))
    if not sizes:
        raise UsageError(f"none of {SAMPLED_SIZES} images looked at in {source.name} can be read.")
    return sizes
