"""One picture of what the benchmark wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.data.cases import CASES

COLOURS = {"ours": "#1b7837", "lightly": "#d8b365", "torchvision": "#d8b365", "decoding alone": "#9a9a9a"}


def plot(folder: Path) -> None:
    """Draw ``views.png`` from the JSON files in ``folder``; a case that has not run leaves its panel empty."""
    figure, grid = plt.subplots(2, 3, figsize=(13, 5.6), constrained_layout=True)
    axes = list(grid.flat)
    results = {name: _read(folder, name) for name in CASES}
    for panel, (name, case) in zip(axes, CASES.items(), strict=False):
        panel.set_title(f"{case.images} to {case.image_size} px", fontsize=9)
        if results[name]:
            _rates(panel, results[name]["sides"])
    axes[-1].set_title("where our time goes, share", fontsize=9)
    _parts(axes[-1], {name: result["parts_ms"] for name, result in results.items() if result})
    figure.suptitle("Images (of two MoCo v2 views) a second on one core")
    figure.savefig(folder / "views.png", dpi=130)
    plt.close(figure)


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else None


def _rates(axes: Axes, sides: dict[str, Any]) -> None:
    names = list(sides)[::-1]
    for place, name in enumerate(names):
        rate = sides[name]["images_per_second"]
        all_rates = [report["images_per_second"] for report in sides[name]["reports"]]
        axes.barh(place, rate, color=COLOURS[name.removesuffix(", normalised")])
        axes.annotate(f" {rate:,.0f}", (max(all_rates), place), va="center", fontsize=8)
        axes.plot(all_rates, [place] * len(all_rates), "k|", markersize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.margins(x=0.2)


def _parts(axes: Axes, cases: dict[str, dict[str, float]]) -> None:
    shades = plt.get_cmap("tab10")
    order = list(dict.fromkeys(part for parts in cases.values() for part in parts))
    for place, parts in enumerate(cases.values()):
        left = 0.0
        for number, part in enumerate(order):
            share = parts.get(part, 0.0) / sum(parts.values())
            axes.barh(place, share, left=left, color=shades(number), label=part if place == 0 else None)
            left += share
    axes.set_yticks(range(len(cases)), cases, fontsize=7)
    if cases:
        axes.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
