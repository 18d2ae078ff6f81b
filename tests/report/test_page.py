from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from co2ssl.report.neighbours import NeighbourGrid, Thumbnail
from co2ssl.report.page import ReportError, RunSummary, TableRow, read_metrics, results_table, write_report


class Page(HTMLParser):
    """Tags that are not closed, references to anything outside, and the text."""

    VOID = frozenset({"meta", "img", "br", "hr", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def row(name: str, top1: float, *, protocol: str = "knn", num_classes: int = 10) -> TableRow:
    return TableRow(name=name, results=[{"protocol": protocol, "top1": top1, "top5": 0.9, "num_classes": num_classes}])


def events(scale: float = 1.0) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for epoch in range(1, 5):
        found.append(
            {"event": "epoch", "epoch": epoch, "step": 10 * epoch, "instance": 5 / epoch, "consistency": scale / epoch}
            | {"top1": 0.2 * epoch}
        )
        found.append({"event": "probe", "epoch": epoch, "step": 10 * epoch, "top1": 0.1 * epoch, "top5": 0.5})
    return found


def write(path: Path, **changes: object) -> str:
    arguments: dict[str, object] = {
        "title": "A run",
        "runs": [RunSummary(name="moco", events=events(), facts={"command": "co2ssl pretrain demo"})],
        "rows": [row("raw pixels", 0.3), row("moco", 0.6)],
    }
    write_report(path, **{**arguments, **changes})  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_is_well_formed(tmp_path: Path) -> None:
    html = write(tmp_path / "new" / "report.html")
    page = Page(html)
    assert page.open == []
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "<script" not in html
    assert "url(" not in html
    assert "co2ssl pretrain demo" in page.text
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["report.html"]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.html") == write(tmp_path / "b.html")


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("&")</script>'
    picture = Thumbnail(data_uri="data:image/png;base64,AA", caption=evil, label=evil, same_class=True, similarity=0.5)
    html = write(
        tmp_path / "report.html",
        title=evil,
        runs=[RunSummary(name=evil, events=events(), facts={evil: evil})],
        rows=[row(evil, 0.5)],
        neighbours=[NeighbourGrid(name=evil, rows=[(picture, [picture])])],
        notes=[evil],
    )
    assert "<script" not in html
    page = Page(html)
    assert page.open == []
    assert page.text.count(evil) >= 7


def test_names_that_are_no_text_do_not_stop_the_page(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert "caf?.jpg" in write(tmp_path / "report.html", rows=[row(name, 0.5)])


def test_a_page_of_nothing(tmp_path: Path) -> None:
    html = write(tmp_path / "report.html", runs=[], rows=[])
    assert Page(html).open == []
    assert "<table>" not in html


def test_the_best_is_marked_whichever_it_is() -> None:
    rows = [row("raw", 0.7), row("a", 0.5), row("b", 0.70004)]
    columns, cells = results_table(rows)
    assert columns == ["kNN top-1 (%)", "kNN top-5 (%)"]
    assert [line[0].text for line in cells] == ["70.0", "50.0", "70.0"]
    assert [line[0].best for line in cells] == [True, False, True]


def test_several_seeds_are_mean_and_deviation() -> None:
    several = TableRow(
        name="moco",
        results=[{"protocol": "knn", "top1": value, "top5": 1.0, "num_classes": 3} for value in (0.5, 0.6, 0.7)],
    )
    columns, cells = results_table([several, row("raw", 0.3, num_classes=3)])
    assert columns == ["kNN top-1 (%)"]
    assert [line[0].text for line in cells] == ["60.0 ± 10.0", "30.0"]


def test_a_protocol_that_a_row_has_not_is_a_dash() -> None:
    columns, cells = results_table([row("a", 0.5, num_classes=5), row("b", 0.4, protocol="linear", num_classes=5)])
    assert columns == ["kNN top-1 (%)", "linear top-1 (%)"]
    assert [[cell.text for cell in line] for line in cells] == [["50.0", "–"], ["–", "40.0"]]
    assert [[cell.best for cell in line] for line in cells] == [[True, False], [False, True]]


def test_the_last_warning_of_a_run_is_shown_unless_it_passed(tmp_path: Path) -> None:
    probes: list[dict[str, object]] = [{"event": "probe", "epoch": 1, "warning": "embeddings have collapsed"}]
    html = write(tmp_path / "report.html", runs=[RunSummary(name="moco", events=probes)])
    assert "moco: embeddings have collapsed" in Page(html).text
    healthy = [*probes, {"event": "probe", "epoch": 2}]
    html = write(tmp_path / "report.html", runs=[RunSummary(name="moco", events=healthy)])
    assert "collapsed" not in html
    unmeasured = [{"event": "warning", "epoch": 1, "warning": "no class has two images"}, *healthy]
    html = write(tmp_path / "report.html", runs=[RunSummary(name="moco", events=unmeasured)])
    assert "moco: no class has two images" in Page(html).text


def test_neighbours_say_which_class(tmp_path: Path) -> None:
    query = Thumbnail(data_uri="data:image/png;base64,QUERY", caption="q.jpg", label="cat")
    same = Thumbnail(data_uri="data:image/png;base64,SAME", caption="s", label="cat", same_class=True, similarity=0.91)
    other = Thumbnail(
        data_uri="data:image/png;base64,OTHER", caption="o", label="dog", same_class=False, similarity=0.2
    )
    nothing = Thumbnail(data_uri="data:image/png;base64,NONE", caption="n", label=None, similarity=-0.1)
    html = write(
        tmp_path / "report.html", neighbours=[NeighbourGrid(name="moco", rows=[(query, [same, other, nothing])])]
    )
    assert re.search(r'<img class="same" src="data:image/png;base64,SAME"[^>]*>0\.91', html)
    assert re.search(r'<img class="other" src="data:image/png;base64,OTHER"[^>]*>0\.20', html)
    assert re.search(r'<img src="data:image/png;base64,NONE"[^>]*>-0\.10', html)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write the report"):
        write(tmp_path / "file" / "report.html")


def test_metrics_are_read_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events()))
    assert read_metrics(path) == events()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_cut_short_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps({"event": "epoch", "epoch": 1}) + "\n"
    path.write_text(whole + json.dumps({"event": "epoch", "epoch": 2, "name": "é"}, ensure_ascii=False)[:cut])
    assert read_metrics(path) == [{"event": "epoch", "epoch": 1}]


def test_a_last_line_cut_inside_a_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n{"name": "\xc3')
    assert read_metrics(path) == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"epoch": 1}\n{"ep\n{"epoch": 2}\n', "line 2, is not JSON"), ("[1]\n", "not a JSON object")],
)
def test_other_broken_lines_are_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(ReportError, match=message):
        read_metrics(path)


def test_no_such_metrics(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot read"):
        read_metrics(tmp_path / "metrics.jsonl")
