"""How the command's process waits for its threads and keeps its memory. Set before torch is imported.

What the system does by itself suits many small programs on one machine; a training step on a CPU does the same hundred
large operations over and over.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

from co2ssl.cores import usable_cores

WAITING: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""Threads that wait for each other by spinning take the cores from the data workers, and from whatever else runs; to be
woken for each of a step's hundreds of operations takes time as well. So they spin for a moment, then sleep."""

# Of mallopt(3): what is larger than the first is asked of the system and given back each time; of what is free at the
# end of the heap no more is kept than the second.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_LARGEST = 32 * 2**20
"""glibc takes no larger threshold; activations of small images are below it."""
_ALL = 2**31 - 1

CHOSEN_BY_THE_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Where one of these is in the environment, memory is left as it says."""


def suit_training() -> None:
    """Let threads spin for a moment only, and keep freed memory for the next step; what the user has set stays."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    cores = usable_cores()
    if hasattr(os, "sched_getaffinity") and cores < len(os.sched_getaffinity(0)):
        # Of a container's limit OpenMP knows nothing: it would start a thread for every core of the host.
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    if not any(name in os.environ for name in CHOSEN_BY_THE_USER):
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Hand freed memory to whoever asks next, instead of to the system; whether there is a glibc to do it.

    Otherwise a step gives tens of thousands of pages back, and the system clears each of them again in the next step.
    """
    if not sys.platform.startswith("linux"):
        return False
    # Another C library than glibc has no mallopt, or one that does nothing.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _ALL))
