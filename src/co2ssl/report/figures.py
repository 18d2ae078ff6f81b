"""Figures of the report, as SVG in data URIs: the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Event: TypeAlias = Mapping[str, object]
"""One line of a run's ``metrics.jsonl``."""
Series: TypeAlias = Mapping[str, Sequence[Event]]
"""Name of a run -> its events."""

# Okabe and Ito's colours, told apart with every common colour blindness; dashes and markers say it once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "co2ssl",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def loss_curves(runs: Series) -> str | None:
    """L_ins, L_con and pretext accuracy over epochs, all runs on common axes; None where no run has them."""
    panels = [
        ("instance", "Instance loss L_ins", "nats", 1.0),
        ("consistency", "Consistency L_con", "nats", 1.0),
        ("top1", "Instance discrimination", "top-1 accuracy (%)", 100.0),
    ]
    # A run of a single epoch has one mean over it, but a curve within it: "train" events count epochs in fractions.
    kind = "epoch" if any(len(_measured(events, "epoch", "instance")) >= 2 for events in runs.values()) else "train"
    curves = {name: _measured(events, kind, "instance") for name, events in runs.items()}
    if not any(curves.values()):
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        for axes, (key, title, unit, factor) in zip(figure.subplots(1, 3), panels, strict=True):
            values = _draw(axes, curves, key=key, factor=factor)
            axes.set(title=title, xlabel="epoch", ylabel=unit)
            if key == "consistency" and values and 0 < min(values) < max(values) / 20:
                axes.set_yscale("log")
                axes.set_ylabel(f"{unit} (log scale)")
            elif values:
                axes.set_ylim(bottom=0, top=100 if factor == 100 else None)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, len(labels))), frameon=False)
        return _data_uri(figure)


def knn_curve(runs: Series) -> str | None:
    """kNN accuracy of the probe over epochs, all runs on common axes; None where no run was probed."""
    curves = {name: _measured(events, "probe", "top1") for name, events in runs.items()}
    if not any(curves.values()):
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.4), layout="constrained")
        axes = figure.subplots()
        _draw(axes, curves, key="top1", factor=100.0)
        axes.set(title="kNN on held-out training images", xlabel="epoch", ylabel="top-1 accuracy (%)", ylim=(0, None))
        axes.legend(frameon=False)
        return _data_uri(figure)


def _measured(events: Sequence[Event], kind: str, key: str) -> list[Event]:
    return [event for event in events if event.get("event") == kind and _finite(event.get(key))]


def _draw(axes: Axes, curves: Series, *, key: str, factor: float) -> list[float]:
    """Draws one curve for each run and returns all values drawn."""
    drawn: list[float] = []
    for number, (name, events) in enumerate(curves.items()):
        points = [
            (float(when), factor * float(value))
            for event in events
            if _finite(when := event.get("epoch")) and _finite(value := event.get(key))
        ]
        if not points:
            continue
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
            markevery=max(1, len(points) // 10),
            markersize=4,
            linewidth=1.6,
            label=name,
        )
        drawn += [y for _, y in points]
    return drawn


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
