"""One picture of what the benchmark wrote: rates, with each round as a tick, and where our step's time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = {"ours": "#1b7837", "lightly": "#d8b365", "lightly-train": "#d8b365", "naked": "#9a9a9a"}
PANELS = {
    "moco_64": "MoCo v2, 64 px, from files",
    "moco_32": "MoCo v2, 32 px, from memory",
    "simclr_64": "SimCLR, 64 px, from files",
}


def plot(folder: Path) -> None:
    """Draw ``step.png`` from the JSON files in ``folder``; a case that has not run leaves its panel empty."""
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.8), constrained_layout=True)
    for panel, (name, title) in zip(axes[:3], PANELS.items(), strict=True):
        _rates(panel, _read(folder, name).get("sides", {}))
        panel.set_title(title, fontsize=9)
    _spent(axes[3], _read(folder, "spent").get("spent", {}))
    axes[3].set_title("where our step's time goes (64 px)", fontsize=9)
    figure.suptitle("ResNet-18, batch 128, images (of two views) a second")
    figure.savefig(folder / "step.png", dpi=130)
    plt.close(figure)


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else {}


def _rates(axes: Axes, sides: Any) -> None:
    names = list(sides)[::-1]
    for place, name in enumerate(names):
        rate = sides[name]["images_per_second"]
        axes.barh(place, rate, color=COLOURS[name.split(",")[0]])
        axes.annotate(f" {rate:.0f}", (max(sides[name]["all"]), place), va="center", fontsize=8)
        axes.plot(sides[name]["all"], [place] * len(sides[name]["all"]), "k|", markersize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.margins(x=0.15)


def _spent(axes: Axes, ours: Any) -> None:
    """Milliseconds of each part, one bar a side; the smallest parts are drawn as one."""
    if not ours:
        return
    shades = plt.get_cmap("tab20")
    reports = list(ours.values())
    largest = {part for one in reports for part, ms in one["parts_ms"].items() if ms > one["step_ms"] / 200}
    order = sorted(largest, key=lambda part: -max(one["parts_ms"].get(part, 0.0) for one in reports))
    for place, report in enumerate(reports):
        left = 0.0
        for number, part in enumerate(order):
            ms = report["parts_ms"].get(part, 0.0)
            axes.barh(place, ms, left=left, color=shades(number), label=part if place == 0 else None)
            left += ms
        axes.barh(place, report["step_ms"] - left, left=left, color="black", label="the rest" if place == 0 else None)
    axes.set_yticks(range(len(ours)), ours, fontsize=8)
    axes.set_xlabel("ms a step")
    axes.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
