"""One training at a time in a run folder, and a lock that no death of its holder leaves behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from co2ssl.distributed import barrier
from co2ssl.errors import UsageError
from co2ssl.train.lock import LOCK, only_trainer
from tests.processes import ProcessPair

HOLDER = """
import multiprocessing, sys, time
from co2ssl.train.lock import only_trainer

with only_trainer(sys.argv[1]):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(600)
"""


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught, only_trainer(folder):
        pass
    return str(caught.value)


def free(folder: Path) -> bool:
    with only_trainer(folder):
        return True


def test_a_second_one_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with only_trainer(tmp_path):
        holder = f"process {os.getpid()} on host {socket.gethostname()}"
        # Nor does who was refused take the lock away with it.
        for _ in range(2):
            assert refused(tmp_path) == f"{tmp_path} is being trained by {holder}: wait for it, or stop it."
    assert free(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_within_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with suppress(ZeroDivisionError), only_trainer("run"):
        assert (tmp_path / "run" / LOCK).is_file()
        monkeypatch.chdir("elsewhere")
        raise ZeroDivisionError
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_it_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """Though a data worker of it, which was forked, is still there."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            assert f"process {process.pid} on host {socket.gethostname()}" in refused(tmp_path)
            process.kill()
            process.wait()
            os.kill(worker, 0)
            assert (tmp_path / LOCK).read_text().startswith(f"process {process.pid} ")
            with only_trainer(tmp_path):
                assert f"process {os.getpid()} on" in refused(tmp_path)
            assert not (tmp_path / LOCK).exists()
        finally:
            process.kill()
            os.kill(worker, signal.SIGKILL)


def test_a_file_that_is_removed_before_it_is_locked_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder removes its file in the instant between the opening and the lock of another process."""
    lock = fcntl.flock
    removed: list[bool] = []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            (tmp_path / LOCK).unlink()
            removed.append(True)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_trainer(tmp_path):
        assert removed
        assert (tmp_path / LOCK).exists()
        assert refused(tmp_path)


def test_without_locks_it_goes_on_after_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert free(tmp_path)
    text = capsys.readouterr().err
    assert text.startswith(f"co2ssl: warning: the file system of {tmp_path} has no locks (No locks available)")
    assert len(text.splitlines()) == 1


def test_where_nothing_can_be_written_what_writes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert free(tmp_path / "none")
    assert capsys.readouterr().err == ""


def test_a_full_disk_keeps_nobody_from_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with only_trainer(tmp_path):
            assert "is being trained by another process" in refused(tmp_path)


def _refused_twice(folder: str) -> list[str]:
    with only_trainer(folder):
        texts = [refused(Path(folder)) for _ in range(2)]
        # The main process holds the lock until the other has read whose it is.
        barrier()
    return texts


def test_all_processes_learn_of_the_refusal(tmp_path: Path, two_processes: ProcessPair) -> None:
    first, second = two_processes(_refused_twice, str(tmp_path))
    assert first == second
    assert "is being trained by process " in first[0]
    assert not (tmp_path / LOCK).exists()
