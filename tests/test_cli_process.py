"""What the command sets for its process: threads that sleep, memory that stays, and nothing that the user has set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from co2ssl.cli import process

# Frees and asks again for arrays above glibc's usual limit, then counts the pages that the last rounds had to fetch.
PAGES = """
import resource, sys
if sys.argv[1] == "kept":
    from co2ssl.cli.process import keep_freed_memory
    if not keep_freed_memory():
        sys.exit(3)
import numpy as np
def rounds(number):
    for _ in range(number):
        arrays = [np.ones(2 ** 20) for _ in range(16)]
        del arrays
rounds(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(kind: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name not in process.CHOSEN_BY_THE_USER}
    done = subprocess.run([sys.executable, "-c", PAGES, kind], capture_output=True, text=True, check=False, env=clean)
    if done.returncode == 3:
        pytest.skip("no glibc here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_used_again() -> None:
    fetched = pages("kept")
    # Sixteen arrays of 8 MiB, four times: without it every one of their pages is fetched anew, with it hardly any.
    assert fetched < 1000
    assert pages("given back") > 10 * fetched


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(process, "keep_freed_memory", lambda: kept.append(True))
    for name in (*process.WAITING, *process.CHOSEN_BY_THE_USER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    process.suit_training()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"], kept) == ("PASSIVE", "7", [True])
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    process.suit_training()
    assert kept == [True]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not process.keep_freed_memory()


def test_threads_are_as_many_as_a_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "keep_freed_memory", lambda: True)
    for name in process.WAITING:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(process, "usable_cores", lambda: 64)
    process.suit_training()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr(process, "usable_cores", lambda: 2)
    process.suit_training()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process.suit_training()
    assert os.environ["OMP_NUM_THREADS"] == "1"
