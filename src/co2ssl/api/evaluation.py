"""``evaluate``: put a representation through a protocol."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from co2ssl.api.backbones import representation
from co2ssl.api.images import Images
from co2ssl.api.protocols import MEASURES, result_path
from co2ssl.config.messages import validated
from co2ssl.distributed import is_main, process_group
from co2ssl.errors import UsageError
from co2ssl.evaluate.feature_key import network_hash
from co2ssl.evaluate.options import OPTIONS, EvaluationOptions
from co2ssl.train.checkpoint import write_atomically
from co2ssl.version import __version__

Say = Callable[[str], None]


def evaluate(
    protocol: str, backbone: str | Path | nn.Module, *data: Images, say: Say | None = None, **options: Any
) -> dict[str, object]:
    """Measure a frozen backbone; nothing is chosen on what it is measured on.

        evaluate("knn", "runs/r", "imagenette/train", "imagenette/val", neighbours=20)
        evaluate("linear", "torchvision:resnet50", train, val, fast=True, out="results/supervised")

    Args:
        protocol: a key of ``co2ssl.evaluate.PROTOCOLS``.
        backbone: as for :func:`co2ssl.api.backbones.representation`.
        *data: what the protocol needs, in the order of its command: for knn and linear the labelled images to learn
            the classes from, and those to measure on. Whatever ``pretrain`` takes.
        say: where lines for a person go; None prints them to stderr, unless ``quiet``.
        **options: of the protocol (``co2ssl.evaluate.options``), such as ``neighbours``, ``fast``, ``layer``,
            ``device``, ``cache``, ``out``.

    Returns:
        ``protocol``, the accuracies as shares from 0 to 1, ``settings``, counts and ``seconds``. Of a run folder, and
        where ``out`` is given, also written to ``evaluation/<protocol>.json`` in it.

    Raises:
        UserError: an unknown protocol or option, no such backbone, weights that do not fit, images without labels, or
            classes that do not match.
    """
    chosen = resolve(protocol, data, options)
    with process_group():
        measured = representation(
            backbone,
            arch=chosen.arch,
            weights=chosen.weights,
            image_size=chosen.image_size,
            precision=chosen.precision,
            out=chosen.out,
        )
        if measured.found and is_main():
            (say or _to_stderr(chosen.quiet))(measured.found)
        device = next((tensor.device for tensor in measured.backbone.parameters()), None)
        result = {
            "representation": measured.name,
            "weights": network_hash(measured.backbone),
            "version": __version__,
            "settings": _settings(chosen),
            **MEASURES[protocol](measured, chosen),
        }
        if device is not None:
            # A module that a program handed over goes back to where it was.
            measured.backbone.to(device)
        if measured.home is not None and is_main():
            _write(result_path(measured, protocol, chosen), result)
    return result


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
    """What the command prints: a line for each number, and what was left out of it."""
    counted = f"of {result['num_val']} images, {result['num_classes']} classes"
    rows = result.get("classifiers")
    if not isinstance(rows, list):
        lines = [f"{result['protocol']}: {_accuracy(result)} {counted}"]
        if left_out := result.get("left_out"):
            lines.append(f"  left out, as no image of {result['val']} shows them: {', '.join(left_out)}")
        if borrowed := (result.get("cross_validation") or {}).get("borrowed"):
            lines.append(f"  too few images to choose a cost, that of the others taken: {', '.join(borrowed)}")
        return "\n".join(lines)
    lines = [f"  lr {row['lr']:<5g} {_accuracy(row)}   {row['origin']}" for row in rows]
    heading = f"{result['protocol']}, {result['layer']}, last of {result['epochs']} epochs, {counted}:"
    return "\n".join([heading, *lines])


def _accuracy(result: dict[str, Any]) -> str:
    if "map_area" in result:
        return f"mAP {100 * result['map_11point']:.2f} % (11-point), {100 * result['map_area']:.2f} % (area)"
    return f"top-1 {100 * result['top1']:.2f} %, top-5 {100 * result['top5']:.2f} %"


def _settings(chosen: EvaluationOptions) -> dict[str, object]:
    """The options as JSON has them: images that a program handed over by the words for them."""
    return {name: _plain(getattr(chosen, name)) for name in type(chosen).model_fields}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else _name(value)


def _name(value: object) -> str:
    return str(getattr(value, "name", None) or (value if isinstance(value, Path) else type(value).__name__))


def _to_stderr(quiet: bool) -> Say:
    return (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))


def _write(path: Path, result: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=2).encode() + b"\n"))
