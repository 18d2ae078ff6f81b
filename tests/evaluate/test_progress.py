from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from co2ssl.evaluate import progress as module
from co2ssl.evaluate.progress import Progress


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_where_there_is_no_terminal_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("co2ssl.evaluate.progress.time.monotonic", lambda: now[0])
    lines = console()
    with Progress("features", total=10_000, console=lines) as progress:
        progress.begin(2000)
        now[0] += 10
        progress.advance(1000)
        assert not text(lines)
        now[0] += 30
        progress.advance(3000, "loss 1.2")
    # 4,000 in 40 seconds: what was done before a restart is no part of the rate.
    assert text(lines) == "features: 6,000 of 10,000 images, 100 images/s  loss 1.2, 40 s left\n"


def test_where_units_take_long_words_change_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("co2ssl.evaluate.progress.time.monotonic", lambda: now[0])
    lines = console()
    with Progress("linear classifier", total=18, unit="fits", console=lines) as progress:
        now[0] += 40
        progress.advance(0, "step 1")
        now[0] += 40
        progress.advance(2, "step 9")
    assert text(lines).splitlines() == [
        "linear classifier: 0 of 18 fits, 0 fits/s  step 1",
        "linear classifier: 2 of 18 fits, 0.025 fits/s  step 9, 11 min left",
    ]


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert module._in_words(seconds) == words


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    bar = console(terminal=True)
    with Progress("features", total=100, console=bar) as progress:
        progress.advance(50, "half of it")
        assert progress._bar is not None
        progress._bar.refresh()
    assert "half of it" in text(bar)
    assert "images/s" in text(bar)
    assert "left" in text(bar)


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    lines = console()
    with Progress("features", total=100, quiet=True, console=lines) as progress:
        progress.advance(50)
    assert not text(lines)


def test_batches_pass_through_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    lines = console()
    batches = [(torch.zeros(3, 2), torch.arange(3)), (torch.zeros(2, 2), torch.arange(2))]
    passed = list(Progress("features", total=5, console=lines).track(batches))
    assert [len(index) for _, index in passed] == [3, 2]
    assert "features: 3 of 5 images" in text(lines)
    assert "features: 5 of 5 images" in text(lines)
