"""Command-line options made from declarations, so that help, types and near matches have one source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast, get_origin

import tyro
from pydantic import BaseModel

from co2ssl.errors import UsageError

REQUIRED: Any = object()
"""The default of an option that has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its type, its help line, and its default (``positional`` ones go by place)."""

    kind: Any
    help: str
    default: Any = REQUIRED
    positional: bool = False


def parse(
    words: Sequence[str], options: Mapping[str, Option], *, command: str, description: str, examples: Sequence[str]
) -> dict[str, Any]:
    """The values of ``options`` in the words of a command line.

    Prints the help page and exits with 0 on ``--help``; prints what was wrong, with near matches, and exits with 2.
    """
    # The types are values here, made from declarations, which a type checker cannot follow.
    positional: Any = tyro.conf.Positional
    fields: list[Any] = []
    for name, option in options.items():
        kind = positional[option.kind] if option.positional else option.kind
        # A choice shows its words; anything else that goes by place shows its name.
        metavar = name.upper() if option.positional and get_origin(option.kind) is not Literal else None
        annotated = cast("Any", Annotated)[kind, tyro.conf.arg(help=option.help, metavar=metavar)]
        default = dataclasses.MISSING if option.default is REQUIRED else option.default
        fields.append((name, annotated, dataclasses.field(default=default)))
    shape = dataclasses.make_dataclass("Options", fields, kw_only=True)
    page = "\n".join([description, "", "examples:", *(f"  {example}" for example in examples)])
    values: Any = tyro.cli(shape, args=list(words), prog=f"co2ssl {command}", description=page)
    return {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}


def model_options(model: type[BaseModel], docs: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Option]:
    """One option for every field of a model, with the values of ``defaults``."""
    return {
        name: Option(kind=field.rebuild_annotation(), help=docs[name], default=defaults[name])
        for name, field in model.model_fields.items()
    }


def given(words: Sequence[str], names: Sequence[str]) -> set[str]:
    """Which of ``names`` (fields, with underscores) the words set as options."""
    flags = {word.split("=", 1)[0].replace("_", "-") for word in words if word.startswith("--")}
    return {
        name for name in names if f"--{name.replace('_', '-')}" in flags or f"--no-{name.replace('_', '-')}" in flags
    }


def value_of(words: Sequence[str], flag: str, default: str) -> str:
    """The word after ``flag`` (or behind its equals sign), before the rest is parsed.

    Raises:
        UsageError: the flag is the last word.
    """
    for place, word in enumerate(words):
        if word == flag:
            if place + 1 == len(words):
                raise UsageError(f"{flag} needs a value.")
            return words[place + 1]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return default
