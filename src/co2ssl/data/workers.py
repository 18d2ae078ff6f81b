"""Worker processes that make whole batches, in order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from co2ssl.errors import UserError

Task = TypeVar("Task")
Made = TypeVar("Made")

PREFETCHED_BATCHES = 2

# How workers start. Forked ones start in a few hundredths of a second for all and share the listing of the data set;
# what makes forking unsafe elsewhere is a child that goes on to use locks or thread pools of its parent, and these
# use none: one thread each, no GPU, no logging. Fresh interpreters (the other start methods) take seconds each to
# import torch, and demand an ``if __name__ == "__main__"`` of every script. macOS's system libraries do not survive a
# fork: there the default of Python, a fresh interpreter, is kept.
_START_METHOD = "fork" if sys.platform.startswith("linux") else None


class WorkerError(UserError):
    """A worker process died."""


class Workers(Generic[Task, Made]):
    """Runs ``make`` on tasks in ``count`` processes that live until :meth:`close`; with none, in this process.

    Results come in the order of the tasks whatever the number of processes. Tensors in them travel through shared
    memory, and arrive in page-locked memory where there is a GPU to copy them to.

    A process that dies is a :class:`WorkerError`, raised in the main thread as soon as it is known: where the next
    result is waited for, or in whatever is done between two of them.
    """

    def __init__(self, make: Callable[[Task], Made], count: int) -> None:
        self._make = make
        self._count = count
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] | None = None

    def run(self, tasks: Iterable[Task]) -> Iterator[Made]:
        """One result for each task. A run must end, or be dropped, before the next begins.

        Raises:
            WorkerError: a worker process died.
        """
        if self._count == 0:
            yield from map(self._make, tasks)
            return
        self._tasks.tasks = tasks
        try:
            yield from self._start()
        except WorkerError:
            self.close()
            raise
        except RuntimeError as error:
            if not _is_death(error):
                raise
            self.close()
            raise _worker_error(error) from error

    def close(self) -> None:
        """End the processes."""
        self._loader = None

    def _start(self) -> Iterator[Made]:
        if self._loader is None:
            self._loader = DataLoader(
                _Maker(self._make),
                batch_size=None,
                sampler=self._tasks,
                num_workers=self._count,
                collate_fn=_unchanged,
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_prepare_worker,
                multiprocessing_context=_START_METHOD,
                # Its own, or starting an epoch would draw from torch's global generator, with workers only.
                generator=torch.Generator(),
                prefetch_factor=PREFETCHED_BATCHES,
                persistent_workers=True,
            )
        # Ctrl-C reaches every process of a terminal. It is for the main one; the mask holds it back from workers until
        # they ignore it themselves.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = iter(self._loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _translate_deaths()
        return results


class _Translated:
    """torch's handler of the signal that a child has ended, which raises wherever the main thread is at that time."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handler(number, frame)
        except RuntimeError as error:
            if not _is_death(error):
                raise
            raise _worker_error(error) from error


def _translate_deaths() -> None:
    """Have deaths of workers raised as :class:`WorkerError` from now on.

    torch puts its handler in place with the first workers of a process. Outside the main thread, where Python allows
    no handlers, neither does anything: a death is then known where the next result is waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _Translated):
        signal.signal(signal.SIGCHLD, _Translated(handler))


def _is_death(error: RuntimeError) -> bool:
    # The only word of a death that DataLoader gives; an exception inside `make` comes as its own type and text.
    return str(error).startswith("DataLoader worker (pid")


def _worker_error(error: RuntimeError) -> WorkerError:
    return WorkerError(
        f"a data worker process died ({str(error).splitlines()[0]}). Most often memory ran out: use fewer "
        "workers or a smaller batch, or in a container give more shared memory (--shm-size)"
    )


class _Tasks:
    """The tasks of the current run, in the place of a sampler: persistent workers outlive one list of tasks."""

    def __init__(self) -> None:
        self.tasks: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)


class _Maker(Dataset[Any]):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __getitem__(self, task: Any) -> Any:
        return self._make(task)


def _unchanged(made: Any) -> Any:
    return made


def _prepare_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A SIGTERM to the whole group, as `timeout` sends it, is for the main process too: it saves, and ends the workers
    # with a SIGTERM of its own, which they must therefore not ignore.
    os.setpgrp()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
