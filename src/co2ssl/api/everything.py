"""``evaluate all``: every protocol that the images permit, one after the other; what is finished is not done again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from co2ssl.api.all_plan import Task, make_plan
from co2ssl.api.backbones import Representation
from co2ssl.api.paper import data_called, paper_beside, run_of, voc_called
from co2ssl.api.protocols import result_name, result_path
from co2ssl.api.results import kept_result, measure, settings_of, write_result
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.feature_key import network_hash
from co2ssl.version import __version__

ALL = "all"
IMAGES = ("train", "val", "num_train", "num_val", "num_classes")
"""What every result says of the images; of several protocols, the first one's."""

Say = Callable[[str], None]


def evaluate_all(representation: Representation, options: AllOptions, say: Say) -> dict[str, object]:
    """Put a representation through everything that the images permit. Over several processes all of them call it.

    Each measurement is kept as its own command keeps it, and one that is there already, of the same weights, images and
    settings, is taken as it is: that is how an ``all`` that was broken off goes on.

    Args:
        representation: what is measured.
        options: what it is measured on, and how.
        say: where lines for a person go.

    Returns:
        ``rows`` (of each ``name``, ``protocol``, accuracies as shares from 0 to 1 with their sample deviations,
        ``num_seeds``, what is ``random``, ``published``, ``measurements``), ``left_out`` (protocol to reason),
        ``measurements`` (name to the whole result), the recipe and the images. Where there is a place, also written
        to ``evaluation/all.json`` in it.

    Raises:
        UserError: as the protocols have it; and where there is nothing to measure on.
    """
    plan = make_plan(representation, options)
    if representation.home is None:
        say("nothing is kept: with --out FOLDER, what is broken off goes on, and features are made once")
    rows: list[dict[str, object]] = []
    measurements: dict[str, dict[str, object]] = {}
    data = data_called(None if plan.train is None else plan.train.classes)
    total = sum(len(task.options) for task in plan.tasks)
    for task in plan.tasks:
        names = []
        for each in task.options:
            name = result_name(task.protocol, each)
            there = kept_result(task.protocol, representation, each)
            say(f"{len(measurements) + 1} of {total}: {name}{', there already' if there else ''}")
            measurements[name] = measure(task.protocol, representation, each) if there is None else there
            names.append(name)
        results = [measurements[name] for name in names]
        on = voc_called(results[0]) if task.protocol == "svm" else data
        paper = paper_beside(task.table, representation, data=on, by_another_protocol=task.departs)
        rows += [{**row, "published": paper, "measurements": names} for row in rows_of(task, results)]
    first = next(iter(measurements.values()))
    # What fresh weights and pixels stand beside is the run's; its recipe made neither.
    run = None if representation.kind else run_of(representation)
    result = {
        "representation": representation.name,
        "weights": network_hash(representation.backbone),
        "version": __version__,
        "settings": settings_of(options),
        "protocol": ALL,
        "recipe": None if run is None else run.config.resolved.name,
        "rows": rows,
        "left_out": plan.left_out,
        **{name: first[name] for name in IMAGES},
        "measurements": measurements,
    }
    if representation.home is not None:
        write_result(result_path(representation, ALL, options), result)
    return result


def rows_of(task: Task, results: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Means and sample deviations over the seeds; of the published linear protocol one row for each learning rate."""
    seconds = sum(float(result["seconds"]) for result in results)
    first = results[0]
    if isinstance(first.get("classifiers"), list):
        return [
            _row(task, [result["classifiers"][place] for result in results], seconds, f"{task.title}, lr {own['lr']:g}")
            for place, own in enumerate(first["classifiers"])
        ]
    return [_row(task, results, seconds, task.title)]


def _row(task: Task, results: Sequence[Mapping[str, Any]], seconds: float, name: str) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "protocol": task.protocol}
    first = results[0]
    for metric in ("top1", "top5", "map_11point", "map_area"):
        if metric not in first:
            continue
        values = [float(result[metric]) for result in results]
        # A protocol that trains several times has the spread itself.
        spread = statistics.stdev(values) if len(values) > 1 else first.get(f"{metric}_std")
        row |= {metric: statistics.fmean(values), f"{metric}_std": spread}
    num_seeds = len(first["draws"]) if isinstance(first.get("draws"), list) else len(results)
    return {**row, "num_seeds": num_seeds, "random": task.random, "seconds": seconds}
