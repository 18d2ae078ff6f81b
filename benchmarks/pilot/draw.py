"""The figures of the pilot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.pilot.compare import Pull, Results, comparisons, differences
from benchmarks.pilot.settings import METHODS, SEEDS, SHORT, paired_name

TITLES = {"moco": "MoCo", "moco-v2": "MoCo v2"}
COLOURS = {False: "#7a7a7a", True: "#1b7837"}
CURVES = {"instance": "L_ins", "consistency": "L_con", "top1": "pretext accuracy, top-1"}


def draw_all(results: Results, pull: Pull, *, folder: Path) -> None:
    """Write every figure into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in {
        "differences": _differences(results),
        "curves": _curves(results),
        "pull": _pull(pull),
        "negatives": _negatives(results),
        "short": _short(results),
    }.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        plt.close(figure)


def _differences(results: Results) -> Any:
    """With minus without the term: each pair a dot, the mean with its interval beside them."""
    compared = comparisons(results)
    figure, axes = plt.subplots(figsize=(2 + 2.25 * len(compared), 3.2), constrained_layout=True)
    labels = []
    for place, (method, (measure, title)) in enumerate(
        (method, measure) for method in compared for measure in (("knn", "kNN"), ("linear_fast", "linear"))
    ):
        called = TITLES.get(method) or method.replace("moco", TITLES["moco"], 1).replace("-", " ")
        labels.append(f"{called}\n{title}")
        found = differences(results, compared[method], measure)
        if found is None:
            continue
        axes.plot([place] * len(found.values), found.values, "o", color=COLOURS[True], alpha=0.6)
        if found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
            axes.errorbar([place + 0.2], [found.mean], yerr=reach, fmt="s", color="black", capsize=4)
    axes.axhline(0, color="#bbbbbb", linewidth=1)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel("with minus without CO2, points")
    axes.set_title("Pairs of the same seed (dots), mean and 95 % interval (black)", fontsize=10)
    return figure


def _curves(results: Results) -> Any:
    """Figure 3 of the paper in its own form: both parts of the loss and pretext accuracy over training."""
    figure, rows = plt.subplots(len(METHODS), len(CURVES), figsize=(11, 5.6), constrained_layout=True, sharex=True)
    for method, row in zip(METHODS, rows, strict=True):
        for axes, (key, title) in zip(row, CURVES.items(), strict=True):
            for term, colour in COLOURS.items():
                _lines(axes, results, method, term, key, colour)
            axes.set_title(f"{TITLES[method]}: {title}", fontsize=10)
            if key == "consistency":
                axes.set_yscale("log")
    for axes in rows[-1]:
        axes.set_xlabel("epoch")
    if rows[0][0].lines:
        rows[0][0].legend(fontsize=8)
    return figure


def _lines(axes: Axes, results: Results, method: str, term: bool, key: str, colour: str) -> None:
    label: str | None = "with CO2" if term else "without"
    for seed in SEEDS:
        result = results.get(paired_name(method, with_term=term, seed=seed))
        if result is not None:
            epochs = [epoch["epoch"] for epoch in result["epochs"]]
            values = [epoch[key] for epoch in result["epochs"]]
            axes.plot(epochs, values, color=colour, linewidth=1, alpha=0.8, label=label)
            label = None


def _pull(pull: Pull) -> Any:
    """How hard each part of the loss pulls at the weights in the first steps, and how alike embeddings are."""
    figure, rows = plt.subplots(len(METHODS), 3, figsize=(11, 5.6), constrained_layout=True, sharex=True)
    for method, (without, with_term, alike) in zip(METHODS, rows, strict=True):
        # Before anything is drawn: afterwards the one's limits would hold for the other.
        with_term.sharey(without)
        for axes, term in ((without, False), (with_term, True)):
            seen = pull[paired_name(method, with_term=term, seed=0)]
            steps = [one["step"] for one in seen]
            axes.plot(steps, [one["pull_of_instance"] for one in seen], color="black", label="gradient of L_ins")
            axes.plot(steps, [one["pull_of_term"] for one in seen], color=COLOURS[True], label="of alpha L_con")
            axes.set_yscale("log")
            axes.set_title(f"{TITLES[method]} {'with CO2' if term else 'without (the term only watched)'}", fontsize=10)
            alike.plot(
                steps,
                [one["similarity"] for one in seen],
                color=COLOURS[term],
                label="with CO2" if term else "without",
            )
        alike.set_title(f"{TITLES[method]}: cosine of query and queue", fontsize=10)
        alike.set_ylim(top=1)
    for axes in rows[-1]:
        axes.set_xlabel("step")
    rows[0][0].set_ylabel("norm over the weights")
    for axes in rows[0][1:]:
        axes.legend(fontsize=8)
    return figure


def _negatives(results: Results) -> Any:
    """Mass of P on negatives of the query's class, before and after training, beside the share by chance."""
    figure, panels = plt.subplots(1, len(METHODS), figsize=(8.5, 3.2), constrained_layout=True, sharey=True)
    for axes, method in zip(panels, METHODS, strict=True):
        chance = []
        for place, term in enumerate((False, True)):
            for number, when in enumerate(("before", "after")):
                seen = [
                    results[name]["negatives"][when]
                    for seed in SEEDS
                    if "negatives" in results.get(name := paired_name(method, with_term=term, seed=seed), {})
                ]
                for one in seen:
                    axes.plot(place + 0.3 * number, 100 * one["mass_of_p"], "o", color=COLOURS[term], alpha=0.7)
                    chance.append(100 * one["by_chance"])
        if chance:
            axes.axhline(sum(chance) / len(chance), color="black", linestyle=":", linewidth=1)
        axes.set_xticks([0, 0.3, 1, 1.3], ["without\nbefore", "after", "with CO2\nbefore", "after"], fontsize=8)
        axes.set_title(f"{TITLES[method]} (dotted: by chance)", fontsize=10)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("P on negatives of the class, %")
    return figure


def _short(results: Results) -> Any:
    """kNN of the training tenth after each short run."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4), constrained_layout=True)
    done = [planned for planned in SHORT if planned.name in results]
    for place, planned in enumerate(done):
        value = 100 * results[planned.name]["probes"][-1]["top1"]
        axes.barh(place, value, color=COLOURS[planned.recipe.endswith("+co2")])
        axes.annotate(f"{value:.1f}", (value, place), va="center", fontsize=8)
    axes.set_yticks(range(len(done)), [planned.name.removeprefix("short-") for planned in done], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("kNN of the training tenth, %, seed 0")
    return figure
