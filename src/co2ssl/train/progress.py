"""What a person sees while it trains. Everything goes to stderr: stdout belongs to results."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from co2ssl.distributed import is_main


class Progress:
    """A bar with losses, images per second and time left on a terminal; a plain line per epoch where there is none.

    Use it as a context manager. Only the main process shows anything.

    Args:
        epochs: length of the run.
        steps_per_epoch: optimiser steps in an epoch.
        quiet: show nothing at all.
        console: where to write. Default: stderr.
    """

    def __init__(
        self, *, epochs: int, steps_per_epoch: int, quiet: bool = False, console: Console | None = None
    ) -> None:
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._quiet = quiet or not is_main()
        self._console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        if not self._quiet and self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=epochs * steps_per_epoch, epoch="", shown="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, step: int) -> None:
        """The run starts, or goes on, after ``step`` steps; the rate is measured from here."""
        if self._bar is not None:
            self._bar.reset(self._task, completed=step, epoch=self._epoch_of(step), shown="")

    def advance(self, step: int) -> None:
        """``step`` steps are finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=self._epoch_of(step - 1))

    def show(self, values: Mapping[str, float]) -> None:
        """Numbers beside the bar: those of a ``train`` event."""
        if self._bar is not None:
            self._bar.update(self._task, shown=_in_words(values))

    def end_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """One plain line where there is no terminal. ``epoch`` counts those finished."""
        if self._bar is None:
            self.message(f"epoch {epoch}/{self._epochs}  {_in_words(values)}")

    def message(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """A warning in a line of its own, also where progress is quiet."""
        if self._quiet:
            warn(text)
        else:
            self.message(f"warning: {text}")

    def _epoch_of(self, step: int) -> str:
        return f"{min(step // self._steps_per_epoch + 1, self._epochs)}/{self._epochs}"


def warn(message: str) -> None:
    """A warning to stderr, from the main process, also where progress is quiet."""
    if is_main():
        print(f"co2ssl: warning: {message}", file=sys.stderr, flush=True)


def _in_words(values: Mapping[str, float]) -> str:
    return (
        f"L_ins {values['instance']:.3f}  L_con {values['consistency']:.3f}  top-1 {100 * values['top1']:.0f} %  "
        f"lr {values['learning_rate']:.3g}  {values['images_per_second']:.0f} img/s"
    )
