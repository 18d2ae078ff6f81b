"""What is shown while something is measured, and that ``quiet`` reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from co2ssl.api import evaluate
from tests.images import write_parts


@pytest.mark.parametrize(
    ("protocol", "options", "title"),
    [("knn", {}, "nearest neighbours"), ("linear", {"fast": True}, "linear classifier")],
)
def test_progress_is_shown_unless_quiet(
    protocol: str,
    options: dict[str, Any],
    title: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("co2ssl.evaluate.progress.LINE_EVERY", 0.0)
    write_parts(tmp_path)
    for quiet in (True, False):
        evaluate(
            protocol,
            nn.Flatten(),
            tmp_path / "train",
            tmp_path / "val",
            image_size=8,
            workers=0,
            device="cpu",
            quiet=quiet,
            **options,
        )
        lines = capsys.readouterr().err.splitlines()
        assert any(line.startswith(f"{title}: ") for line in lines) is not quiet
