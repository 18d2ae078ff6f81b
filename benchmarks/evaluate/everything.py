"""A trained backbone, an untrained one and raw pixels through every protocol that some images permit; and the table.

    python -m benchmarks.evaluate.everything measure imagenette RUN DATA --full --seeds 3
    python -m benchmarks.evaluate.everything measure voc-style-pack RUN VOCDEVKIT --voc-train train --voc-test val
    python -m benchmarks.evaluate.everything table          # docs/protocols.md, from the JSON alone

Each data set is one ``benchmarks/evaluate/everything/NAME.json``. Measuring goes on where it was broken off, as
``co2ssl evaluate all`` does, and does one of the three with ``--only``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evaluate.surroundings import HERE, surroundings
from benchmarks.page import fill_in, row, table
from benchmarks.runs import write
from co2ssl.api import evaluate

KINDS = {"trained": "", "untrained": "untrained:", "pixels": "pixels:"}
"""What is measured, and the words before the run folder that ask for it."""
RESULTS = HERE / "everything"
PAGE = HERE.parents[1] / "docs" / "protocols.md"
PLACE = "results"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("measure")
    asked.add_argument("name", help="of the JSON")
    asked.add_argument("run", type=Path, help="run folder of the trained backbone")
    asked.add_argument("data", type=Path, help="labelled images, or a VOCdevkit")
    asked.add_argument("--only", choices=tuple(KINDS))
    asked.add_argument("--val", type=Path)
    asked.add_argument("--full", action="store_true", help="also the published linear protocol")
    asked.add_argument("--supervised", action="store_true", help="also the baselines; of the trained backbone only")
    asked.add_argument("--seeds", type=int)
    asked.add_argument("--batch-size", type=int)
    asked.add_argument("--voc-train")
    asked.add_argument("--voc-test")
    asked.add_argument("--out", type=Path, default=RESULTS)
    shown = commands.add_parser("table")
    shown.add_argument("--results", type=Path, default=RESULTS)
    shown.add_argument("--page", type=Path, default=PAGE)
    given = vars(parser.parse_args(arguments))
    if given.pop("command") == "table":
        write_table(given["results"], given["page"])
    else:
        measure(arguments=arguments, **given)


def measure(
    *, name: str, run: Path, data: Path, only: str | None, out: Path, arguments: list[str], **options: Any
) -> None:
    """Add to the JSON what is measured; a kind that is there is measured anew (or taken from the run folder)."""
    # Whole paths: what is hidden in the JSON could be part of other words, as a folder called "moco" would be.
    run, data, out = run.resolve(), data.resolve(), out.resolve()
    path = out / f"{name}.json"
    result = json.loads(path.read_text()) if path.is_file() else {}
    places = {run: "RUN", data: "DATA", out: "OUT"}
    chosen = {option: value for option, value in options.items() if value}
    for kind, prefix in KINDS.items():
        if only not in (None, kind):
            continue
        own = {option: value for option, value in chosen.items() if option != "supervised" or kind == "trained"}
        measured = evaluate("all", f"{prefix}{run}", data, **own)
        result[kind] = surroundings("benchmarks.evaluate.everything", arguments) | measured
        result = write(path, {**result, "pretrained": trained_how(run)}, places)


def trained_how(run: Path) -> dict[str, Any]:
    """Recipe, what was changed of it, and the number of images, from the run folder."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    fields = config["recipe"] | config["options"]
    return {
        "recipe": config["name"],
        "num_images": config["data"]["num_images"],
        "changed": {
            field: one["value"]
            for field, one in fields.items()
            if not str(one["from"]).startswith(("recipe", "default"))
        },
    }


def write_table(results: Path, page: Path) -> None:
    """The page anew, with a table for each JSON."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    made = "\n\n".join(f"### {name}\n\n{in_words(one)}\n\n{table_of(one)}" for name, one in found.items())
    page.write_text(fill_in(page.read_text(), {PLACE: f"\n{made}\n"}))


def in_words(result: Mapping[str, Any]) -> str:
    """What was trained on what, and the commands."""
    how = result["pretrained"]
    first = next(result[kind] for kind in KINDS if kind in result)
    changed = ", ".join(f"{field} {value}" for field, value in how["changed"].items())
    return (
        f"Trained: recipe `{how['recipe']}` on {how['num_images']:,} images without their labels"
        + (f" ({changed})" if changed else "")
        + f". Measured: {first['num_train']:,} images to learn from, {first['num_val']:,} to measure on, "
        f"{first['num_classes']} classes; {first['cpu']}, commit {first['commit'][:9]}, `{first['command']}`."
    )


def table_of(result: Mapping[str, Any]) -> str:
    """A row for each protocol; what could not be asked of one of the three has a dash."""
    kinds = [kind for kind in KINDS if kind in result]
    rows: dict[str, dict[str, str]] = {}
    for kind in kinds:
        for one in result[kind]["rows"]:
            for metric, title in (("top1", "top-1"), ("top5", "top-5"), ("map_11point", "mAP, 11-point")):
                if metric in one:
                    rows.setdefault(f"{one['name']}, {title}", {})[kind] = _share(one, metric)
    lines = [row("%", *kinds)]
    lines += [row(name, *(cells.get(kind, "-") for kind in kinds)) for name, cells in rows.items()]
    return table(lines)


def _share(one: Mapping[str, Any], metric: str) -> str:
    spread = one[f"{metric}_std"]
    return f"{100 * one[metric]:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
