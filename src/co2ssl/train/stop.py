"""Ctrl-C and SIGTERM as a question that the loop asks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from co2ssl.distributed import all_reduce_sum
from co2ssl.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(UserError):  # noqa: N818 - nothing went wrong
    """The run was stopped from outside, at the end of a step. The message says how to go on."""

    exit_code = 130


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within the block a first Ctrl-C or SIGTERM only makes the function true that the block is given.

    A second one does what it always did. Outside the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        give_back()

    def give_back() -> None:
        for each, handler in previous.items():
            # None: a handler that was not made by Python, and cannot be put back by it.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    previous = {each: signal.signal(each, note) for each in _SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        give_back()


def any_process(*flags: bool) -> list[bool]:
    """Each flag, true where it is true on any process, so that all of them do the same."""
    return [bool(total) for total in all_reduce_sum(torch.tensor(flags, dtype=torch.int64)).tolist()]
