"""One picture of what the benchmarks of evaluation wrote."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

TITLES = {
    "knn": "kNN, {queries:,} against {bank:,} x {width:,}",
    "features": "Features of {images:,} JPEG files, {arch} at {image_size} px",
    "svm": "SVMs, {classes} classes of {train:,} x {width:,}",
}
OURS, THEIRS = "#1b7837", "#9a9a9a"


def plot(folder: Path) -> None:
    """Draw ``evaluate.png`` from the JSON files in ``folder``; a benchmark that has not run leaves its panel empty."""
    figure, panels = plt.subplots(1, len(TITLES), figsize=(5 * len(TITLES), 2.8), constrained_layout=True)
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        axes.set_xlabel("seconds, median")
        path = folder / f"{name}.json"
        if not path.exists():
            axes.set_title(f"{name}: not run", fontsize=9)
            continue
        result = json.loads(path.read_text())
        contenders = {label: timing["median_ms"] / 1e3 for label, timing in result["contenders"].items()}
        colours = [OURS if label.startswith(("ours", "extraction")) else THEIRS for label in contenders]
        bars = axes.barh(list(contenders), list(contenders.values()), color=colours)
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.tick_params(labelsize=7)
        axes.set_title(title.format(**result), fontsize=9)
    figure.savefig(folder / "evaluate.png", dpi=130)
    plt.close(figure)
