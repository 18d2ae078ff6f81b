"""``co2ssl evaluate PROTOCOL BACKBONE DATA...``: the options of the chosen protocol, and no others."""

from __future__ import annotations

import difflib
import json
from typing import Any

from co2ssl.cli.options import REQUIRED, Option, given, parse
from co2ssl.config import field_docs
from co2ssl.errors import UsageError
from co2ssl.evaluate import PROTOCOLS
from co2ssl.evaluate.base_options import EvaluationOptions
from co2ssl.evaluate.options import OPTIONS

_BACKBONE = (
    "A run folder; weights:PATH (with --arch); torchvision:NAME; or what they have to beat: untrained:RUN or "
    "untrained:torchvision:NAME (fresh weights), pixels:RUN (no network)."
)

_SHARED = "common"


def run(words: list[str]) -> None:
    """Measure, and print the accuracy."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        raise SystemExit(0 if words else UsageError.exit_code)
    protocol, rest = words[0], words[1:]
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no protocol {protocol!r}.{hint} Protocols: {', '.join(PROTOCOLS)}.")
    model = OPTIONS[protocol]
    values = parse(
        rest,
        _options(model),
        command=f"evaluate {protocol}",
        description=f"{PROTOCOLS[protocol][0].upper()}{PROTOCOLS[protocol][1:]}. {model.leaves}",
        examples=model.examples,
        groups={_SHARED: "Of other protocols too."},
    )
    from co2ssl.api.evaluation import PATIENCE, evaluate, in_words
    from co2ssl.distributed import is_main, process_group

    chosen = {name: values[name] for name in given(rest, list(model.model_fields)) if name not in model.positional}
    with process_group(patience=PATIENCE):
        result = evaluate(protocol, values["backbone"], *(values[name] for name in model.positional), **chosen)
        if is_main():
            print(json.dumps(result, indent=2) if values["json"] else in_words(result))


def _options(model: type[EvaluationOptions]) -> dict[str, Option]:
    """What goes by place, then what is the protocol's own, then what every protocol has."""
    docs, shared = field_docs(model), EvaluationOptions.model_fields
    own = [name for name in model.model_fields if name not in shared and name not in model.positional]
    options = {"backbone": Option(kind=str, help=_BACKBONE, positional=True)}
    options |= {name: Option(kind=str, help=docs[name], positional=True) for name in model.positional}
    for name in (*own, *(name for name in shared if name not in model.no_use)):
        field = model.model_fields[name]
        default: Any = REQUIRED if field.is_required() else field.default
        # What may be an object of a program is a name here.
        kind: Any = str | None if field.annotation is Any else field.rebuild_annotation()
        options[name] = Option(kind=kind, help=docs[name], default=default, group="" if name in own else _SHARED)
    return options | {"json": Option(kind=bool, help="Print the whole result as JSON.", default=False, group=_SHARED)}


def _help() -> str:
    width = max(map(len, PROTOCOLS))
    lines = [f"  {name:<{width}}  {what}" for name, what in PROTOCOLS.items()]
    examples = [f"  {words}" for model in OPTIONS.values() for words in model.examples]
    return "\n".join(
        [
            "usage: co2ssl evaluate PROTOCOL BACKBONE DATA... [OPTIONS]",
            "",
            "Measure a frozen backbone, and keep the result in the run folder.",
            "",
            "protocols:",
            *lines,
            "",
            "  co2ssl evaluate PROTOCOL --help lists a protocol's options.",
            "",
            "examples:",
            *examples,
        ]
    )
