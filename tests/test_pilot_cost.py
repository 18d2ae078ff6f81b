"""The measurement of what the term costs, at a size that takes a moment: every method, both kinds of step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pilot import cost
from benchmarks.pilot.settings import METHODS, PAIRED

TINY = {"width": 0.125, "stem": "small", "image_size": 16, "batch_size": 16, "batch_norm_groups": 2, "queue_size": 32}


def test_every_method_is_timed_without_and_with_the_term(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = tuple(replace(planned, options={**planned.options, **TINY}) for planned in PAIRED)
    monkeypatch.setattr(cost, "PAIRED", small)
    cost.main(["--steps", "3", "--out", str(tmp_path / "cost.json")])
    written = json.loads((tmp_path / "cost.json").read_text())
    assert set(written["result"]) == set(METHODS)
    for one in written["result"].values():
        assert all(one[f"{kind}_ms"] > 0 for kind in ("unwatched", "without", "with"))
        for name in ("ratio", "ratio_to_unwatched"):
            low, high = one[f"{name}_quartiles"]
            assert 0.1 < low <= one[name] <= high < 10
    assert {"command", "commit", "cpu", "torch"} <= set(written)
