"""The table that ``co2ssl evaluate all`` prints, from its result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {"top1": "top-1", "top5": "top-5", "map_11point": "mAP"}
_BLOCKS = (("top-1 %", "top1", "top-5 %", "top5"), ("mAP %, 11-point", "map_11point", "mAP %, area", "map_area"))


def table_in_words(result: Mapping[str, Any]) -> str:
    """The rows, the papers' numbers beside them with what sets those apart, what is random, and what was left out."""
    notes: list[str] = []
    lines = [_heading(result)]
    for first_title, first, second_title, second in _BLOCKS:
        rows = [row for row in result["rows"] if first in row]
        if not rows:
            continue
        cells = [["", first_title, second_title, "paper %" if any(row["published"] for row in rows) else ""]]
        cells += [
            [row["name"], _share(row, first), _share(row, second), _paper(row["published"], notes)] for row in rows
        ]
        lines += ["", *_aligned(cells)]
    if notes:
        lines += ["", *(f"  [{number}] {note}" for number, note in enumerate(notes, 1))]
    lines += _spread(result["rows"])
    if result["left_out"]:
        lines += ["", "  left out", *_aligned([list(pair) for pair in result["left_out"].items()], indent=4)]
    return "\n".join(lines)


def _heading(result: Mapping[str, Any]) -> str:
    recipe = f" ({result['recipe']})" if result["recipe"] else ""
    return (
        f"{result['representation']}{recipe}: {result['num_train']:,} images of {result['train']} to learn from, "
        f"{result['num_val']:,} of {result['val']} to measure on, {result['num_classes']:,} classes"
    )


def _share(row: Mapping[str, Any], metric: str) -> str:
    spread = row[f"{metric}_std"]
    return f"{100 * row[metric]:.2f}" + ("" if spread is None else f" +- {100 * spread:.2f}")


def _paper(found: Mapping[str, Any] | None, notes: list[str]) -> str:
    """A paper's number with the numbers of its notes, which are added where they are new."""
    if found is None:
        return ""
    words = [*found["words"], *(["as recalled, unverified"] if found["mark"] == "recalled" else [])]
    notes += [text for text in words if text not in notes]
    marks = "".join(f" [{number}]" for number in sorted(notes.index(text) + 1 for text in words))
    return f"{found['value']:.1f} {METRICS[found['metric']]}{marks}"


def _spread(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of what the deviations are, and what has none because nothing is random in it."""
    varied = [[row["name"], f"{row['num_seeds']}: {row['random']}"] for row in rows if row["num_seeds"] > 1]
    if not varied:
        return []
    fixed = ", ".join(row["name"] for row in rows if not row["random"])
    lines = ["", "  +- is the standard deviation over seeds, which decide", *_aligned(varied, indent=4)]
    lines += [f"    nothing is random in {fixed}"] if fixed else []
    return [*lines, "    what is measured is the same throughout: what another pretraining would give is not in it"]


def _aligned(cells: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Lines of columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)
    return [" " * indent + line.rstrip() for line in padded]
