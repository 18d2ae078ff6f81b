"""Two processes that talk over gloo, kept alive over many tests: importing torch takes longer than most of them."""

from __future__ import annotations

import importlib.util
import multiprocessing
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

NUM_PROCESSES = 2


class ProcessPair:
    """Call a function in two gloo processes at once and get what each returned.

    The function must stand at the top level of a module; arguments and results travel by pickle. Inside it
    ``co2ssl.distributed.rank()`` is 0 or 1.
    """

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
        """Results by rank; RuntimeError with the traceback of a process that failed, TimeoutError where one hangs."""
        if not self._processes:
            self._start()
        file = sys.modules[function.__module__].__file__
        task = pickle.dumps((list(sys.path), function.__module__, file, function.__qualname__, pickle.dumps(arguments)))
        try:
            for connection in self._connections:
                connection.send_bytes(task)
            return self._results(function.__qualname__, time.monotonic() + timeout)
        except BaseException:
            # A process that failed leaves its partner waiting in a collective: neither can be used again.
            self.close()
            raise

    def close(self) -> None:
        """End both processes; the next call starts new ones."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            connection.close()
            process.kill()
            process.join()
        self._processes, self._connections = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = (Path(self._folder.name) / "rendezvous").as_uri()
        context = multiprocessing.get_context("forkserver")
        # One server imports these, and both processes are forked from it.
        context.set_forkserver_preload(["torch.distributed", "torchvision"])
        for rank in range(NUM_PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, rendezvous, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _results(self, name: str, deadline: float) -> list[Any]:
        results: dict[int, Any] = {}
        while len(results) < NUM_PROCESSES:
            waiting = [connection for rank, connection in enumerate(self._connections) if rank not in results]
            ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{name}: {len(waiting)} of {NUM_PROCESSES} processes did not answer in time")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = self._connections.index(connection)
                try:
                    failure, result = pickle.loads(connection.recv_bytes())
                except EOFError:
                    raise RuntimeError(f"{name}: process {rank} died") from None
                if failure is not None:
                    raise RuntimeError(f"{name}: process {rank} failed\n{failure}")
                results[rank] = result
        return [results[rank] for rank in range(NUM_PROCESSES)]


def _serve(rank: int, rendezvous: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=NUM_PROCESSES)
    while True:
        try:
            task = connection.recv_bytes()
        except EOFError:
            return
        answer: tuple[str | None, Any]
        try:
            answer = (None, _call(task))
        except Exception:
            answer = (traceback.format_exc(), None)
        connection.send_bytes(pickle.dumps(answer))


def _call(task: bytes) -> Any:
    path, module_name, file, name, arguments = pickle.loads(task)
    sys.path[:] = path
    if module_name not in sys.modules:
        # By file: pytest gives test modules names that need not be importable.
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[module_name], name)(*pickle.loads(arguments))
