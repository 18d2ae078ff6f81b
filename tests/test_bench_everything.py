"""The section of measured results: three representations through ``evaluate all``, and the table from their JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.evaluate import everything
from co2ssl.cli import main
from tests.images import tiny, write_parts

PAGE = "before\n<!-- results -->\nold\n<!-- end -->\nafter\n"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of two classes, a run, and the JSON of all three, each measured by its own call."""
    folder = tmp_path_factory.mktemp("everything")
    write_parts(folder / "images")
    words = ["pretrain", str(folder / "images"), "--out", str(folder / "run"), "--quiet", "--recipe", "moco+co2"]
    assert main([*words, "--arch", "resnet10", "--stem", "small", *tiny(epochs=1)]) == 0
    for kind in everything.KINDS:
        asked = ["measure", "own", str(folder / "run"), str(folder / "images"), "--out", str(folder / "results")]
        everything.main([*asked, "--only", kind])
    return folder


def test_the_json_says_how_it_was_made_and_holds_no_path(measured: Path) -> None:
    text = (measured / "results" / "own.json").read_text()
    found = json.loads(text)
    assert set(found) == {*everything.KINDS, "pretrained"}
    assert str(measured) not in text
    assert found["pretrained"]["recipe"] == "moco+co2"
    assert found["pretrained"]["changed"]["arch"] == "resnet10"
    assert "temperature" not in found["pretrained"]["changed"]
    for kind in everything.KINDS:
        assert found[kind]["command"].endswith(f"--only {kind}")
    assert found["trained"]["weights"] != found["untrained"]["weights"]


def test_the_table_is_what_the_json_says(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    everything.main(["table", "--results", str(measured / "results"), "--page", str(page)])
    text = page.read_text()
    found = json.loads((measured / "results" / "own.json").read_text())
    shown = {kind: 100 * found[kind]["rows"][0]["top1"] for kind in everything.KINDS}
    row = "| knn, top-1 | {trained:.1f} | {untrained:.1f} | {pixels:.1f} |".format(**shown)
    assert row in text
    assert text.startswith("before\n<!-- results -->\n")
    assert "old" not in text
    assert "### own" in text
    # Pixels have no network to train.
    assert any(line.startswith("| finetune") and line.endswith("| - |") for line in text.splitlines())


def test_the_committed_page_is_what_the_committed_json_says(tmp_path: Path) -> None:
    page = tmp_path / "protocols.md"
    page.write_text(everything.PAGE.read_text())
    everything.write_table(everything.RESULTS, page)
    assert page.read_text() == everything.PAGE.read_text(), "the table of docs/protocols.md is not that of its JSON"
