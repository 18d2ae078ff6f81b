"""What a person sees while something is measured: how far it is, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

from co2ssl.distributed import is_main

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """A bar on a terminal; a plain line every half minute where there is none. Everything goes to stderr.

    Use it as a context manager. Only the main process shows anything.

    Args:
        title: what is being done.
        total: how many units there are.
        unit: what they are called.
        quiet: show nothing at all.
        console: where to write. Default: stderr.
    """

    def __init__(
        self, title: str, *, total: int, unit: str = "images", quiet: bool = False, console: Console | None = None
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._quiet = quiet or not is_main()
        self._console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._done = self._done_before = 0
        self._began = self._last_line = time.monotonic()
        if not self._quiet and self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=total, shown="")

    def __enter__(self) -> Self:
        self._began = self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int) -> None:
        """``done`` units were finished earlier; the rate is measured from here."""
        self._done = self._done_before = done
        self._began = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, completed=done, shown="")

    def advance(self, count: int, shown: str = "") -> None:
        """``count`` more units are finished.

        Args:
            count: how many; 0 where only the words are new.
            shown: words beside the bar.
        """
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._done_before) / max(now - self._began, 1e-9)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        text = f"{speed} {self._unit}/s  {shown}".rstrip()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, shown=text)
        elif not self._quiet and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            # Before the first unit is finished nobody knows.
            left = f", {_in_words((self._total - self._done) / rate)} left" if rate > 0 else ""
            self._console.print(
                f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {text}{left}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def track(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (features, places), each counted by its images once it has been used."""
        with self:
            for features, index in batches:
                yield features, index
                self.advance(len(index))


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
