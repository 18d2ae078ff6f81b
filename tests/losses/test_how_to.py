"""The code of docs/loss-in-your-own-loop.md runs as it stands, and learns."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "loss-in-your-own-loop.md"


def blocks() -> dict[str, str]:
    """Python blocks by the heading they stand under."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL) for section in sections}
    return {heading: code[0] for heading, code in found.items() if code}


def run(code: str) -> list[tuple[float, float, float]]:
    namespace: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    history: list[tuple[float, float, float]] = namespace["history"]
    assert all(math.isfinite(number) for numbers in history for number in numbers)
    return history


def test_the_plain_moco_loop_learns() -> None:
    history = run(blocks()["MoCo in plain PyTorch"])
    assert len(history) == 60
    # The first steps are easy: the queue is still random noise. From the eighth it holds keys only.
    assert history[-1][0] < history[8][0] - 0.5
    assert history[-1][2] > 0.5


@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="lightly is not installed")
def test_the_lightly_loop_learns() -> None:
    history = run(blocks()["With lightly"])
    assert history[-1][0] < history[8][0]


def test_the_simclr_lines_run() -> None:
    assert len(run(blocks()["SimCLR"])) == 1
