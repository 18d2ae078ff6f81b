"""``co2ssl evaluate knn|linear RUN TRAIN VAL``."""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal, cast

from co2ssl.cli.options import Option, parse
from co2ssl.errors import UsageError
from co2ssl.evaluate import PROTOCOLS


def run(words: list[str]) -> None:
    """Measure, and print the accuracy."""
    if words and not words[0].startswith("-") and words[0] not in PROTOCOLS:
        near = difflib.get_close_matches(words[0], PROTOCOLS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no protocol {words[0]!r}.{hint} Protocols: {', '.join(PROTOCOLS)}.")
    options = {
        "protocol": Option(
            kind=cast("Any", Literal)[tuple(PROTOCOLS)],
            help="; ".join(f"{name}: {what}" for name, what in PROTOCOLS.items()) + ".",
            positional=True,
        ),
        "run": Option(
            kind=str,
            help="A run folder; or what it has to beat: untrained:RUN (fresh weights), pixels:RUN (no network).",
            positional=True,
        ),
        "train": Option(
            kind=str, help="Labelled images to learn the classes from: a folder of class folders, ...", positional=True
        ),
        "val": Option(kind=str, help="Labelled images to measure on.", positional=True),
        "neighbours": Option(
            kind=int | None, help="knn: how many vote. None: 200, fewer where classes are small.", default=None
        ),
        "temperature": Option(
            kind=float, help="knn: a neighbour of cosine s votes with exp(s / temperature).", default=0.07
        ),
        "seed": Option(
            kind=int, help="linear: of the tenth of the training images on which its penalty is chosen.", default=0
        ),
        "device": Option(kind=Literal["auto", "cpu", "cuda", "mps"], help="Where to compute.", default="auto"),
        "workers": Option(kind=int | None, help="Processes that decode images. None: one a core.", default=None),
        "json": Option(kind=bool, help="Print the whole result as JSON.", default=False),
    }
    values: dict[str, Any] = parse(
        words,
        options,
        command="evaluate",
        description="Measure a frozen backbone on labelled images, and keep the result in the run folder.",
        examples=[
            "co2ssl evaluate knn runs/r imagenette/train imagenette/val",
            "co2ssl evaluate linear runs/r cifar10:data cifar10:data",
            "co2ssl evaluate knn untrained:runs/r imagenette/train imagenette/val",
        ],
    )
    from co2ssl.api import evaluate

    as_json = values.pop("json")
    result = evaluate(values.pop("protocol"), values.pop("run"), values.pop("train"), values.pop("val"), **values)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    top1, top5 = float(str(result["top1"])), float(str(result["top5"]))
    print(
        f"{result['protocol']}: top-1 {100 * top1:.2f} %, top-5 {100 * top5:.2f} % "
        f"of {result['num_val']} images, {result['num_classes']} classes"
    )
