"""What Linux lets this process have of the machine: the limits of control groups, which containers and schedulers set.

A limit holds for every group below it, so the smallest one on the way up from the process's own group counts. A
container sees that way up to its own top only, whatever ``/proc/self/cgroup`` says: groups that are not there are
passed over. Sources: the Linux kernel's documentation, ``cgroup-v2.rst`` (cpu.max, memory.max),
``scheduler/sched-bwc.rst`` (cpu.cfs_quota_us) and ``cgroup-v1/memory.rst`` (memory.limit_in_bytes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Where the system's files are; tests lay out others."""


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: fewer than the machine has under taskset, in a job or in a container.

    Args:
        root: the folder that holds ``proc`` and ``sys``, where limits of control groups are read.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit(root)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def cpu_limit(root: Path = ROOT) -> float | None:
    """Cores' worth of time that this process may take, such as 1.5; None where no limit can be seen.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    said = [_words(folder / "cpu.max") for folder in _groups(root, "")]
    said += [
        [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")] for folder in _groups(root, "cpu")
    ]
    limits = [_cores(words) for words in said]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes of memory that this process may take; None where no limit can be seen.

    Where there is none, version 1 says more bytes than any machine has: compare with what this one has.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    files = [folder / "memory.max" for folder in _groups(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _groups(root, "memory")]
    limits = [_number(word) for path in files for word in _words(path)[:1]]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of all groups that the process may be in, from the top down to its own. Some may not be there.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
        controller: of version 1, where every controller has groups of its own; empty for version 2.
    """
    together = controller
    names: list[str] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        # number:controllers:path, and no controllers for version 2
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and controller in controllers.split(","):
            together, names = controllers, [name for name in path.split("/") if name]
            break
    if ".." in names:
        # Above what this process can see: the top is all there is.
        names = []
    top = root / "sys/fs/cgroup"
    # Version 2 beside version 1 is at unified; controllers that share groups may share a folder under both names.
    mounts = [top / controller, top / together] if controller else [top, top / "unified"]
    for mount in dict.fromkeys(mounts):
        for depth in range(len(names) + 1):
            yield mount.joinpath(*names[:depth])


def _cores(words: list[str]) -> float | None:
    """Quota and period in microseconds as cores; "max" or -1 for the quota is no limit."""
    if len(words) != 2:
        return None
    quota, period = (_number(word) for word in words)
    return None if quota is None or period is None else quota / period


def _number(word: str) -> int | None:
    """A number above 0; None for every other word."""
    return int(word) or None if word.isdecimal() else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """The text of a file; empty where there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
