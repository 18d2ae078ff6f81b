from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from co2ssl.api import demonstration
from co2ssl.api.demonstration import NAMES, demo, in_words
from co2ssl.api.pretraining import pretrain
from co2ssl.data.sources import demo as drawn
from co2ssl.errors import UsageError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on a few images, for one epoch."""
    monkeypatch.setattr(drawn, "DEMO_IMAGES", {"train": 160, "val": 60})
    short = functools.partial(pretrain, epochs=1, warmup_epochs=0, consistency_ramp_epochs=0, workers=0, device="cpu")
    monkeypatch.setattr(demonstration, "pretrain", short)
    monkeypatch.setattr(demonstration, "usable_cores", lambda: 0)


@pytest.mark.usefixtures("small")
def test_the_demo_leaves_a_table_and_a_page_and_can_be_run_again(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        result = demo(tmp_path / "demo", quiet=True, say=said.append)
    names = [name for name, _, _ in result.rows]
    assert names == ["raw pixels", "untrained encoder", "MoCo v2", "MoCo v2 + CO2"]
    assert all(0 <= value <= 1 for _, *values in result.rows for value in values)
    for name in names:
        assert name in in_words(result)
    page = result.report.read_text()
    assert "data:image" in page
    assert "http" not in page.split("<body")[1].replace("http://www.w3.org", "")
    kept = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert list(kept["results"]) == names
    assert kept["results"]["MoCo v2"][0]["top1"] == result.rows[2][1]
    assert set(kept["runs"]) == set(NAMES)
    assert any("MoCo v2 + CO2" in line for line in said)


def test_the_demo_removes_nothing_but_an_earlier_demo(tmp_path: Path) -> None:
    (tmp_path / "demo.json").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
