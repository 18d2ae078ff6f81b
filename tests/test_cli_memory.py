"""A device whose memory is full, as a person at the command line meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from co2ssl.cli import main, methods
from co2ssl.losses.objective import Objective
from tests.images import tiny, write_classes

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError(FULL)


def test_training_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "images")
    monkeypatch.setattr(Objective, "__call__", full)
    words = ["pretrain", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "--recipe", "moco-small-32+co2"]
    assert main([*words, *tiny()]) == 1
    text = capsys.readouterr().err
    assert "co2ssl: error: no memory is left on the device (cpu) at step 1 (epoch 1): CUDA out of memory" in text
    assert "--batch-size" in text
    assert "Traceback" not in text


def test_every_other_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "run", full)
    assert main(["methods"]) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"co2ssl: error: no memory is left on the device: {FULL}")
    assert "--batch-size" in text


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: list[str]) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(methods, "run", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["methods"])
