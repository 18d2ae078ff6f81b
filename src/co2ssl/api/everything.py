"""``evaluate all``: every protocol that the images permit, one after the other; what is finished is not done again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from co2ssl.api.all_plan import Task, make_plan
from co2ssl.api.backbones import Representation
from co2ssl.api.paper import data_called, measured_otherwise, paper_beside, run_of, voc_called
from co2ssl.api.protocols import result_name, result_path
from co2ssl.api.results import kept_result, key_of_all, measure, set_aside, settings_of, write_result
from co2ssl.data.sources import Source
from co2ssl.distributed import world_size
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.feature_key import network_hash
from co2ssl.evaluate.features import EvaluationError
from co2ssl.train.progress import warn
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

    A protocol that finds its images or features unfit is left out, with what it said, and the others go on; over
    several processes it ends them all.

    Raises:
        UserError: as the protocols have it; and where there is nothing to measure on, or nothing could be measured.
    """
    plan = make_plan(representation, options)
    if representation.home is None:
        say("nothing is kept: with --out FOLDER, what is broken off goes on, and features are made once")
    rows: list[dict[str, object]] = []
    measurements: dict[str, dict[str, object]] = {}
    total = sum(len(task.options) for task in plan.tasks)
    left_out = dict(plan.left_out)
    for task in plan.tasks:
        try:
            results = _measured(task, representation, done=len(measurements), total=total, say=say)
        except EvaluationError as error:
            # What others have found stays. Several processes may not all have come here: they end together.
            if world_size() > 1:
                raise
            warn(f"{task.title} is left out: {error}")
            left_out[task.title] = str(error)
            continue
        paper = _published(task, representation, options, plan.train, next(iter(results.values())))
        named = list(results)
        rows += [{**row, "published": paper, "measurements": named} for row in rows_of(task, list(results.values()))]
        measurements |= results
    if not measurements:
        raise EvaluationError(
            "nothing could be measured: " + "; ".join(f"{name}: {why}" for name, why in left_out.items())
        )
    first = next(iter(measurements.values()))
    # What fresh weights and pixels stand beside is the run's; its recipe made neither.
    run = None if representation.kind else run_of(representation)
    result = {
        "representation": representation.name,
        "weights": network_hash(representation.backbone),
        "version": __version__,
        "settings": settings_of(options),
        "key": key_of_all(measurements),
        "protocol": ALL,
        "recipe": None if run is None else run.config.resolved.name,
        "rows": rows,
        "left_out": left_out,
        **{name: first[name] for name in IMAGES},
        "measurements": measurements,
    }
    if representation.home is not None:
        path = result_path(representation, ALL, options)
        set_aside(path, str(result["key"]))
        write_result(path, result)
    return result


def _measured(
    task: Task, representation: Representation, *, done: int, total: int, say: Say
) -> dict[str, dict[str, Any]]:
    """The results of a task by their names, each made unless it is there; ``done`` of ``total`` came before."""
    results: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(task.options, start=done + 1):
        name = result_name(task.protocol, each)
        there = kept_result(task.protocol, representation, each)
        say(f"{number} of {total}: {name}{', there already' if there else ''}")
        results[name] = measure(task.protocol, representation, each) if there is None else there
    return results


def _published(
    task: Task,
    representation: Representation,
    options: AllOptions,
    train: Source | None,
    first: Mapping[str, Any],
) -> dict[str, object] | None:
    """What the paper has beside a task, of which ``first`` is a result, and in what ours departs from it."""
    on = voc_called(first) if task.protocol == "svm" else data_called(None if train is None else train.classes)
    departures = [*task.departs, *measured_otherwise(representation, first, batch_size=options.batch_size)]
    return paper_beside(task.table, representation, data=on, weights=options.weights, departures=departures)


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
