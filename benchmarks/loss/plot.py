"""One picture of what the benchmark wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {"textbook": "#9a9a9a", "bare products": "#d8b365", "blocked": "#1b7837", "triton": "#2166ac"}


def plot(folder: Path) -> None:
    """Draw ``loss.png`` from the JSON files in ``folder``; a case that has not run leaves its panel empty."""
    figure, (bars, by_rows, by_negatives) = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    _bars(bars, [(name, _read(folder, name)) for name in ("queue", "under_load", "simclr", "draws")])
    _lines(by_rows, _read(folder, "batch_sizes") or [], "rows", "N, K = 65,536")
    sizes = _read(folder, "queue_sizes") or {"sizes": []}
    _lines(by_negatives, sizes["sizes"], "negatives", "K, N = 256")
    figure.suptitle("InfoNCE and consistency, forward and backward, D = 128, float32, CPU")
    figure.savefig(folder / "loss.png", dpi=130)
    plt.close(figure)


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else None


def _bars(axes: Axes, cases: list[tuple[str, Any]]) -> None:
    for place, (name, result) in enumerate(cases):
        if result is None:
            continue
        shares = {key: value["time"] for key, value in result["ratios_to_textbook"].items()}
        width = 0.8 / len(shares)
        for number, (contender, share) in enumerate(shares.items()):
            axes.bar(place + number * width, share, width, color=COLOURS[contender])
            axes.annotate(f"{share:.2f}", (place + number * width, share), ha="center", va="bottom", fontsize=7)
        axes.annotate(name, (place + 0.3, -0.08), ha="center", fontsize=8, annotation_clip=False)
    axes.set_xticks([])
    axes.set_ylabel("time, textbook = 1")


def _lines(axes: Axes, results: list[Any], key: str, label: str) -> None:
    for contender, colour in COLOURS.items():
        points = [
            (one[key], one["contenders"][contender]["median_ms"]) for one in results if contender in one["contenders"]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=contender)
            axes.legend(fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("ms, median")
