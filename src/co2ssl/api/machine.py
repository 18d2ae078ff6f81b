"""What there is to run on, and what the images are like: read before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from co2ssl.config import Machine, RunOptions, host_memory, process_counts, usable_cores
from co2ssl.data.decoding import BadImage
from co2ssl.data.sources import Source
from co2ssl.distributed import is_initialised, world_size
from co2ssl.errors import UsageError
from co2ssl.train.progress import warn

BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "amx_tile"})
"""Instruction sets of x86 that compute in bfloat16, as Linux and torch name them. AVX-512 alone (Skylake-X, Cascade
Lake, Ice Lake) does not."""
CPUINFO = Path("/proc/cpuinfo")
"""Where Linux lists the instruction sets of the CPU."""
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
    """Whether the device has bfloat16 arithmetic: CUDA from compute capability 8.0, x86 with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or not _has_avx512():
        return False
    known = _instruction_sets()
    return known is None or not known.isdisjoint(BF16_INSTRUCTIONS)


def check_precision(options: RunOptions, device: torch.device) -> None:
    """Refuse a precision that the device can only imitate, far more slowly than float32; warn of a slower one.

    A CPU without AVX-512 falls back to loops: 12 to 100 times slower than float32 where it was measured. One with
    AVX-512 alone emulates it at no such price.

    Raises:
        UsageError: bf16 on a device without it.
    """
    if options.precision != "bf16" or fast_bf16(device):
        return
    if device.type == "cpu" and _has_avx512():
        warn(
            "--precision bf16: this CPU has AVX-512, but neither AVX512-BF16 nor AMX, so that bfloat16 is emulated: "
            "slower than float32, and less exact. --precision float32 is the better choice here."
        )
        return
    raise UsageError(
        f"--precision bf16: this {device.type} device has no bfloat16 arithmetic, and imitating it is many times "
        "slower than float32. Use --precision float32."
    )


def _has_avx512() -> bool:
    """Whether torch's own kernels use AVX-512 (``ATEN_CPU_CAPABILITY`` can keep them from it)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _instruction_sets() -> frozenset[str] | None:
    """What this CPU can do, by Linux's names, such as ``avx512_bf16``; None where neither torch nor Linux says."""
    # Not in every version of torch that is supported.
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return frozenset(name for name, has in capabilities().items() if has)
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(flags.partition(":")[2].split())


def describe_machine(device: torch.device) -> Machine:
    """What ``--auto`` needs to know of the machine, and of the processes that share it.

    Raises:
        UsageError: the environment names no number of processes.
    """
    processes, local = process_counts()
    if is_initialised():
        # Whoever made the group need not have told the environment.
        processes = world_size()
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else host_memory()
    kind = cast("Literal['cpu', 'cuda', 'mps']", device.type)
    return Machine(
        device=kind,
        cores=usable_cores(),
        memory=memory,
        fast_bf16=fast_bf16(device),
        processes=processes,
        local_processes=min(local, processes),
    )


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
