"""The report: one self-contained HTML page from what the runs left on disk."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from co2ssl.errors import UserError
from co2ssl.report.figures import Event, knn_curve, loss_curves
from co2ssl.report.neighbours import NeighbourGrid


class ReportError(UserError):
    """What a run left cannot be read, or the page cannot be written."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run as the page shows it.

    Attributes:
        name: shown in legends and tables.
        events: the run's ``metrics.jsonl`` (:func:`read_metrics`).
        facts: what was run, in the order shown: command, commit, version, hardware, seed, time, folder.
    """

    name: str
    events: Sequence[Event]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One representation and what protocols found.

    Attributes:
        name: of the representation.
        results: dicts as the protocols return them (``protocol``, ``top1``, ``top5``, ``num_classes``); several of
            one protocol, from several seeds, are shown as mean and standard deviation.
    """

    name: str
    results: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class _Cell:
    text: str
    best: bool


def read_metrics(path: str | Path) -> list[dict[str, object]]:
    """Events of a ``metrics.jsonl``, in order. A last line that was cut short by a crash is left out.

    Raises:
        ReportError: the file cannot be read, or a line before the last is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror or error}") from error
    events: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            # A whole line ends in a line break: only text after the last one can be half written.
            if number == len(lines):
                break
            raise ReportError(f"{path}, line {number}, is not JSON ({error.msg}): mend or remove the line") from error
        if not isinstance(event, dict):
            raise ReportError(f"{path}, line {number}, is not a JSON object: mend or remove the line")
        events.append(event)
    return events


def write_report(
    path: str | Path,
    *,
    title: str,
    runs: Sequence[RunSummary],
    rows: Sequence[TableRow],
    neighbours: Sequence[NeighbourGrid] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes the page to ``path`` and returns it. The file needs nothing beside it: no script, no network.

    Args:
        path: an ``.html`` file; its folder is made, an older file is replaced in one step.
        runs: what was run, in the order of the legends.
        rows: the table, in the order shown; the best of each column is marked, whichever it is.
        neighbours: one grid for each representation (:func:`co2ssl.report.neighbours.neighbour_grid`).
        notes: sentences under the title, such as what the images are.

    Raises:
        ReportError: the file cannot be written.
    """
    path = Path(path)
    source = resources.files("co2ssl.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    columns, cells = results_table(rows)
    series = {run.name: run.events for run in runs}
    html = environment.from_string(source).render(
        title=title,
        notes=notes,
        runs=runs,
        columns=columns,
        table=list(zip([row.name for row in rows], cells, strict=True)),
        losses=loss_curves(series),
        accuracy=knn_curve(series),
        neighbours=neighbours,
        warnings=_warnings(runs),
    )
    # File names may hold bytes that are no text; a page with a "?" in it is better than no page.
    content = html.encode("utf-8", errors="replace")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise ReportError(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


def results_table(rows: Sequence[TableRow]) -> tuple[list[str], list[list[_Cell]]]:
    """Column titles, and a cell for each row and column: accuracy in percent, the best of each column marked.

    Equals on the page are equals: all of them are marked. Top-5 is left out where there are five classes or fewer.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for number, row in enumerate(rows):
        for result in row.results:
            for key in ("top1", "top5"):
                value = result.get(key)
                few = key == "top5" and _number(result.get("num_classes"), 6) <= 5
                if isinstance(value, int | float) and not few:
                    column = found.setdefault((str(result["protocol"]), key), [[] for _ in rows])
                    column[number].append(100 * float(value))
    titles = [f"{_protocol_title(protocol)} {'top-1' if key == 'top1' else 'top-5'} (%)" for protocol, key in found]
    columns = [_column(values) for values in found.values()]
    return titles, [[column[number] for column in columns] for number in range(len(rows))]


def _column(values: Sequence[Sequence[float]]) -> list[_Cell]:
    means = [f"{statistics.fmean(own):.1f}" if own else "" for own in values]
    best = max((float(mean) for mean in means if mean), default=None)
    cells = []
    for own, mean in zip(values, means, strict=True):
        text = f"{mean} ± {statistics.stdev(own):.1f}" if len(own) > 1 else mean or "–"
        cells.append(_Cell(text, bool(mean) and float(mean) == best))
    return cells


def _protocol_title(protocol: str) -> str:
    return "kNN" if protocol == "knn" else protocol


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _warnings(runs: Sequence[RunSummary]) -> list[str]:
    """The warning of each run's last probe, if it still had one, and what could not be measured, the last time."""
    found = []
    for run in runs:
        for kind in ("probe", "warning"):
            last = next((event for event in reversed(run.events) if event.get("event") == kind), {})
            if last.get("warning"):
                found.append(f"{run.name}: {last['warning']}")
    return found
