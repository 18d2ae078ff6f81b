from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from co2ssl.api.diagnosis.steps import Clock, Mark, epoch_seconds

TRAINEE: Any = SimpleNamespace(
    num_images=99,
    recipe=SimpleNamespace(accumulate=1),
    options=SimpleNamespace(compile=False),
    device=torch.device("cpu"),
)


class Wrist:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wrist(monkeypatch: pytest.MonkeyPatch) -> Wrist:
    found = Wrist()
    monkeypatch.setattr(time, "perf_counter", found)
    return found


def stepped(
    wrist: Wrist, steps: list[float], *, trainee: Any = TRAINEE, seconds: float, warm_up: int, wait: float = 0.0
) -> Clock:
    """A clock after a training whose batches take ``steps`` seconds each, the last one for ever."""

    def batches() -> Iterator[tuple[int, Any]]:
        while True:
            wrist.now += wait
            yield 0, None

    clock = Clock(trainee, batches(), seconds=seconds, warm_up=warm_up)
    for number, _ in enumerate(clock.epoch(0)):
        wrist.now += steps[min(number, len(steps) - 1)]
    return clock


def lengths(clock: Clock) -> list[float]:
    return [round(later.asked - mark.asked, 6) for mark, later in zip(clock.marks, clock.marks[1:], strict=False)]


def test_warm_up_is_left_out_and_whole_steps_fill_the_time(wrist: Wrist) -> None:
    assert lengths(stepped(wrist, [2.0, 0.5, 0.4, 0.3], seconds=1.0, warm_up=3)) == [0.3] * 4


def test_waiting_for_a_batch_is_seen(wrist: Wrist) -> None:
    clock = stepped(wrist, [0.1], seconds=1.0, warm_up=2, wait=0.3)
    assert lengths(clock) == [0.4] * 3
    assert [round(mark.given - mark.asked, 6) for mark in clock.marks] == [0.3, 0.3, 0.3, 0.0]


def test_a_step_longer_than_the_time_is_timed_once(wrist: Wrist) -> None:
    assert lengths(stepped(wrist, [1.2, 1.1], seconds=0.5, warm_up=1)) == [1.1]


def test_a_very_slow_first_step_is_the_only_one(wrist: Wrist) -> None:
    assert lengths(stepped(wrist, [60.0, 50.0], seconds=1.0, warm_up=9)) == [60.0]
    # A compiler works in the first one, which says nothing of the others.
    compiled: Any = SimpleNamespace(**{**vars(TRAINEE), "options": SimpleNamespace(compile=True)})
    assert lengths(stepped(wrist, [60.0, 0.5], trainee=compiled, seconds=1.0, warm_up=1)) == [0.5, 0.5]


def test_a_long_warm_up_is_cut(wrist: Wrist) -> None:
    clock = stepped(wrist, [2.9, 2.0, 1.0], seconds=1.0, warm_up=50)
    assert lengths(clock) == [1.0]
    assert wrist.now == pytest.approx(100 + 2.9 + 2.0 + 1.0)


def test_only_whole_steps_of_several_batches(wrist: Wrist) -> None:
    several: Any = SimpleNamespace(**{**vars(TRAINEE), "recipe": SimpleNamespace(accumulate=4)})
    assert lengths(stepped(wrist, [0.2], trainee=several, seconds=1.0, warm_up=1)) == [0.2] * 8


def marks(*epochs: tuple[int, int, float], refill: float = 0.0) -> list[Mark]:
    """So many batches of each epoch, of so many seconds each, with a pause before the first of each but the first."""
    now, found = 0.0, []
    for epoch, batches, seconds in epochs:
        for number in range(batches):
            found.append(Mark(epoch, now, now))
            now += seconds + (refill if number == 0 and epoch != epochs[0][0] else 0.0)
    return [*found, Mark(epochs[-1][0], now, now)]


def test_time_of_an_epoch_longer_than_what_was_measured() -> None:
    assert epoch_seconds(marks((0, 5, 0.2)), batches=100, refill=3.0) == pytest.approx(100 * 0.2 + 3.0)


def test_time_of_an_epoch_that_was_measured_whole() -> None:
    measured = marks((3, 2, 0.2), (4, 10, 0.2), (5, 10, 0.3), (6, 10, 0.2), (7, 4, 0.2), refill=1.0)
    assert epoch_seconds(measured, batches=10, refill=99.0) == pytest.approx(10 * 0.2 + 1.0)


def test_time_of_an_epoch_of_which_two_parts_were_measured() -> None:
    measured = marks((0, 6, 0.2), (1, 4, 0.2), refill=1.0)
    assert epoch_seconds(measured, batches=10, refill=99.0) == pytest.approx(10 * 0.2 + 1.0)
