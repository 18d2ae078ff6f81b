"""``evaluate``: put a representation through a protocol."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import nn

from co2ssl.api.all_table import table_in_words
from co2ssl.api.backbones import representation
from co2ssl.api.everything import ALL, evaluate_all
from co2ssl.api.images import Images
from co2ssl.api.results import measure
from co2ssl.config.messages import validated
from co2ssl.distributed import is_main, process_group
from co2ssl.errors import UsageError
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.base_options import EvaluationOptions
from co2ssl.evaluate.options import OPTIONS

Say = Callable[[str], None]

PATIENCE = timedelta(days=7)
"""How long processes wait for one that computes for all of them: fits and votes over ImageNet take hours."""


def evaluate(
    protocol: str, backbone: str | Path | nn.Module, *data: Images, say: Say | None = None, **options: Any
) -> dict[str, object]:
    """Measure a backbone, which stays as it is; nothing is chosen on what it is measured on.

        evaluate("knn", "runs/r", "imagenette/train", "imagenette/val", neighbours=20)
        evaluate("linear", "torchvision:resnet50", train, val, fast=True, out="results/supervised")
        evaluate("all", "runs/r", "imagenette", seeds=3)

    Args:
        protocol: a key of ``co2ssl.evaluate.PROTOCOLS``.
        backbone: as for :func:`co2ssl.api.backbones.representation`.
        *data: what the protocol needs, in the order of its command: the labelled images to learn the classes from, and
            those to measure on; for svm the VOCdevkit folder; for all the images that hold both, or those to learn
            from, with ``val=`` those to measure on. Whatever ``pretrain`` takes.
        say: where lines for a person go; None prints them to stderr, unless ``quiet``.
        **options: of the protocol (``co2ssl.evaluate.options``), such as ``neighbours``, ``fast``, ``layer``,
            ``device``, ``cache``, ``out``.

    Returns:
        ``protocol``, the accuracies as shares from 0 to 1, ``settings``, counts and ``seconds``; of all what
        :func:`co2ssl.api.everything.evaluate_all` returns. Of a run folder, and where ``out`` is given, also written to
        ``evaluation/<protocol>.json`` in it.

    Raises:
        UserError: an unknown protocol or option, no such backbone, weights that do not fit, images without labels, or
            classes that do not match.
    """
    chosen = resolve(protocol, data, options)
    with process_group(patience=PATIENCE):
        measured = representation(
            backbone,
            arch=chosen.arch,
            weights=chosen.weights,
            image_size=chosen.image_size,
            precision=chosen.precision,
            out=chosen.out,
        )
        told = (say or _to_stderr(chosen.quiet)) if is_main() else _to_nobody
        if measured.found:
            told(measured.found)
        if isinstance(chosen, AllOptions):
            return evaluate_all(measured, chosen, told)
        return measure(protocol, measured, chosen)


def resolve(protocol: str, data: tuple[Images, ...], options: dict[str, Any]) -> EvaluationOptions:
    """The options of a protocol, complete and checked.

    Raises:
        UsageError: an unknown protocol or option, a value out of range, or more or fewer images than it needs.
    """
    if protocol not in OPTIONS:
        near = difflib.get_close_matches(protocol, OPTIONS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no protocol {protocol!r}.{hint} Protocols: {', '.join(OPTIONS)}.")
    model = OPTIONS[protocol]
    if len(data) != len(model.positional):
        raise UsageError(f"{protocol} needs {' and '.join(map(str.upper, model.positional))}; {len(data)} given.")
    chosen = validated(model, {**dict(zip(model.positional, data, strict=True)), **options})
    chosen.check()
    return chosen


def in_words(result: dict[str, Any]) -> str:
    """What the command prints: a line for each number, and what was left out of it; of ``all`` the table."""
    if result["protocol"] == ALL:
        return table_in_words(result)
    counted = f"of {result['num_val']} images, {result['num_classes']} classes"
    rows = result.get("classifiers")
    if not isinstance(rows, list):
        lines = [f"{result['protocol']}{_trainings(result)}: {_accuracy(result)} {counted}"]
        if left_out := result.get("left_out"):
            lines.append(f"  left out, as no image of {result['val']} shows them: {', '.join(left_out)}")
        if borrowed := (result.get("cross_validation") or {}).get("borrowed"):
            lines.append(f"  too few images to choose a cost, that of the others taken: {', '.join(borrowed)}")
        return "\n".join([*lines, *_note(result)])
    lines = [f"  lr {row['lr']:<5g} {_accuracy(row)}   {row['origin']}" for row in rows]
    heading = f"{result['protocol']}, {result['layer']}, last of {result['epochs']} epochs, {counted}:"
    return "\n".join([heading, *lines, *_note(result)])


def _note(result: dict[str, Any]) -> list[str]:
    """How the measurement was not the published one, as a line."""
    return [f"  {result['note']}"] if result.get("note") else []


def _accuracy(result: dict[str, Any]) -> str:
    if "map_area" in result:
        return f"mAP {100 * result['map_11point']:.2f} % (11-point), {100 * result['map_area']:.2f} % (area)"
    shown = []
    for title, name in (("top-1", "top1"), ("top-5", "top5")):
        spread = result.get(f"{name}_std")
        about = "" if spread is None else f" +- {100 * spread:.2f}"
        shown.append(f"{title} {100 * result[name]:.2f}{about} %")
    return ", ".join(shown)


def _trainings(result: dict[str, Any]) -> str:
    """On how many labels a network was trained, and how often."""
    draws = result.get("draws")
    if not isinstance(draws, list):
        return ""
    mean = f"mean of {len(draws)} trainings, " if len(draws) > 1 else ""
    return f", {mean}last of {result['epochs']} epochs on {result['num_train']:,} labelled images"


def _to_stderr(quiet: bool) -> Say:
    return _to_nobody if quiet else (lambda text: print(text, file=sys.stderr, flush=True))


def _to_nobody(_: str) -> None:
    return None
