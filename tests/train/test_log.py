"""The metrics file, and what a person sees."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from co2ssl.errors import UserError
from co2ssl.train.log import MetricsLog
from co2ssl.train.progress import Progress

VALUES = {
    "instance": 1.5,
    "consistency": 0.25,
    "top1": 0.5,
    "learning_rate": 0.03,
    "images_per_second": 120.0,
}


def test_each_event_is_a_whole_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write("train", {"step": 1, "total": float("inf")})
    assert json.loads(path.read_text()) == {"event": "train", "step": 1, "total": None}
    log.write("train", {"step": 2})
    assert len(path.read_text().splitlines()) == 2
    log.close()


@pytest.mark.parametrize("tail", ["", '{"event": "train", "st'])
def test_rewind_drops_what_came_after_and_goes_on(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write("train", {"step": 1})
    position = log.position()
    log.write("train", {"step": 2})
    log.close()
    with path.open("a") as file:
        file.write(tail)

    log = MetricsLog(path)
    log.rewind(position)
    log.write("train", {"step": 3})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_file_shorter_than_the_checkpoint_remembers_loses_only_its_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    log = MetricsLog(path)
    log.rewind(1000)
    assert log.position() == len('{"step": 1}\n{"step": 2}\n')
    log.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        MetricsLog(tmp_path / "no folder" / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_once() -> None:
    log = MetricsLog("/dev/full")
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left.*resume"):
        log.write("train", {"step": 1})
    # What closes it afterwards must not put another error in the place of that one.
    log.close()


def test_a_disk_that_fills_up_later_is_said_by_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("train", {"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: No space left"):
            log.position()
    log.close()


class Late(io.FileIO):
    """Says only when it is closed that the disk is full, as network file systems do."""

    said = False

    def close(self) -> None:
        super().close()
        if not self.said:
            self.said = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failed", [False, True])
def test_a_close_that_fails_is_said_unless_a_write_has_been(tmp_path: Path, failed: bool) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.close()
    log._file = Late(tmp_path / "metrics.jsonl", "ab")
    log._failed = failed
    if failed:
        log.close()
    else:
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: No space left"):
            log.close()
    assert log._file.said


class Little(io.FileIO):
    """Takes ten bytes at a time."""

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        return super().write(data[:10])


def test_an_event_that_is_taken_in_parts_is_whole(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.close()
    log._file = Little(tmp_path / "metrics.jsonl", "ab")
    log.write("train", {"step": 1, "learning_rate": 0.125})
    log.close()
    written = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(written) == {"event": "train", "step": 1, "learning_rate": 0.125}


def test_a_file_that_cannot_be_cut_is_named(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl: No such file"):
        log.rewind(0)
    log.close()


def show(console: Console, *, quiet: bool = False) -> None:
    with Progress(epochs=2, steps_per_epoch=3, quiet=quiet, console=console) as progress:
        progress.begin(0)
        for step in range(1, 7):
            progress.advance(step)
            progress.show(VALUES)
            if step % 3 == 0:
                progress.end_epoch(step // 3, VALUES)
        progress.message("[red] of things")


def test_without_a_terminal_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    show(Console(file=text))
    lines = text.getvalue().splitlines()
    assert lines[0] == "epoch 1/2  L_ins 1.500  L_con 0.250  top-1 50 %  lr 0.03  120 img/s"
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2", "[red] of "]
    show(Console(stderr=True, force_terminal=False))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == lines


def test_on_a_terminal_a_bar_with_rate_and_time_left() -> None:
    text = io.StringIO()
    show(Console(file=text, force_terminal=True, width=140, legacy_windows=False))
    shown = text.getvalue()
    for part in ("epoch 2/2", "6/6", "L_ins 1.500", "120 img/s", "left"):
        assert part in shown
    assert "epoch 1/2  L_ins" not in shown


def test_quiet_is_quiet() -> None:
    text = io.StringIO()
    show(Console(file=text, force_terminal=True), quiet=True)
    assert text.getvalue() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_warning_is_said_in_any_case(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    Progress(epochs=2, steps_per_epoch=3, quiet=quiet, console=Console(file=text)).warning("[red] eyes")
    said = text.getvalue(), capsys.readouterr().err
    assert said == (("", "co2ssl: warning: [red] eyes\n") if quiet else ("warning: [red] eyes\n", ""))
