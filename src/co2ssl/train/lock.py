"""One training at a time in a run folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from co2ssl.distributed import is_main
from co2ssl.errors import UsageError
from co2ssl.train.progress import warn
from co2ssl.train.stop import any_process

if sys.platform != "win32":
    import fcntl

LOCK = "training.lock"
"""File in the run folder that is locked, and says by whom. What a killed process leaves of it locks nothing."""

_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextmanager
def only_trainer(folder: str | Path) -> Iterator[bool]:
    """Keep other runs out of a run folder for the length of a ``with`` block. Every process enters it.

    The main process holds the lock (``flock``), and the system takes it back when that process ends, by a kill too.
    Where the file system has no locks the block goes ahead without, after a warning; where nothing can be written it
    goes ahead as well, and the first write says why.

    Args:
        folder: the run folder; it exists.

    Yields:
        Whether there is a lock; on the other processes, whether there is a main one that may hold it.

    Raises:
        UsageError: another run holds the folder, which the message names; raised on every process.
    """
    # Absolute, because the block may change the working folder.
    path = Path(folder).absolute() / LOCK
    descriptor: int | None = None
    taken = False
    if is_main():
        try:
            descriptor = _take(path)
        except BlockingIOError:
            taken = True
    try:
        (refused,) = any_process(taken)
        if refused:
            raise UsageError(_taken_by(folder, path))
        yield descriptor is not None or not is_main()
    finally:
        if descriptor is not None:
            _give_back(path, descriptor)


def _taken_by(folder: str | Path, path: Path) -> str:
    return f"{folder} is being trained by {_holder(path)}: wait for it, or stop it."


def _take(path: Path) -> int | None:
    """A descriptor that holds the lock; None where there can be no lock.

    Raises:
        BlockingIOError: another one holds it.
    """
    if sys.platform == "win32":
        return None
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError as error:
            os.close(descriptor)
            warn(
                f"the file system of {path.parent} has no locks ({error.strerror or error}): nothing but you keeps a "
                "second process from training in this folder"
            )
            return None
        if _is_at(path, descriptor):
            _held.add(descriptor)
            _sign(descriptor)
            return descriptor
        # Between the opening and the lock its holder has removed it: what is locked has no name any more.
        os.close(descriptor)


def _give_back(path: Path, descriptor: int) -> None:
    if descriptor not in _held:
        # In a forked child, to which the lock never belonged.
        return
    _held.remove(descriptor)
    with suppress(OSError):
        # While it is locked, so that nobody's but our own file is removed.
        if _is_at(path, descriptor):
            path.unlink()
    with suppress(OSError):
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    # The lock holds without a name in it, as on a full disk.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on host {socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    """Who holds the lock, as the file says it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[0] if lines else "another process"


def _let_go() -> None:
    """In a forked child, such as a data worker: a lock lives as long as any copy of its descriptor does."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
