"""Command-line options made from declarations, so that help, types and near matches have one source."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import tyro
from pydantic import BaseModel

from co2ssl.cli.near import nearest
from co2ssl.errors import UsageError

REQUIRED: Any = object()
"""The default of an option that has none."""

_NONE = "none"
_FOR_TYRO = "None"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its type, its help line, and its default (``positional`` ones go by place).

    ``group`` is the box of the help page that it stands in, by a key of the ``groups`` of :func:`parse`; empty: the
    first one.
    """

    kind: Any
    help: str
    default: Any = REQUIRED
    positional: bool = False
    group: str = ""


def parse(
    words: Sequence[str],
    options: Mapping[str, Option],
    *,
    command: str,
    description: str,
    examples: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The values of ``options`` in the words of a command line.

    Prints the help page and exits with 0 on ``--help``; prints a value that is no such thing and exits with 2.

    Args:
        words: after the command.
        options: by field name.
        command: after ``co2ssl``.
        description: of the help page.
        examples: whole command lines.
        groups: names of the boxes of the help page after the first, with what stands at the top of each.

    Raises:
        UsageError: an option that there is not; near ones are named.
    """
    _require_known(words, options, command)
    fields: list[Any] = [_field(name, option) for name, option in options.items() if not option.group]
    # The types are values here, made from declarations, which a type checker cannot follow.
    unprefixed: Any = tyro.conf.OmitArgPrefixes
    for number, (title, about) in enumerate((groups or {}).items()):
        held = [_field(name, option) for name, option in options.items() if option.group == title]
        box = dataclasses.make_dataclass("Group", held, kw_only=True)
        box.__doc__ = about
        # No option is called so: a field of that name would stand in its way.
        fields.append((f"group_{number}", cast("Any", Annotated)[unprefixed[box], tyro.conf.arg(name=title)]))
    shape = dataclasses.make_dataclass("Options", fields, kw_only=True)
    page = "\n".join([description, "", "examples:", *(f"  {example}" for example in examples)])
    values: Any = tyro.cli(shape, args=list(_spelt(words, options)), prog=f"co2ssl {command}", description=page)
    places = [values, *(getattr(values, f"group_{number}") for number in range(len(groups or {})))]
    return {name: next(getattr(place, name) for place in places if hasattr(place, name)) for name in options}


def model_options(
    model: type[BaseModel], docs: Mapping[str, str], defaults: Mapping[str, Any], *, group: str = ""
) -> dict[str, Option]:
    """One option for every field of a model, with the values of ``defaults``."""
    return {
        name: Option(kind=field.rebuild_annotation(), help=docs[name], default=defaults[name], group=group)
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


def metavar(kind: Any) -> str | None:
    """What stands for a value of a type on the help page: ``INT``, ``FLOAT ...``, ``{sgd,lars}``, ``STR or none``.

    None where nothing does: the name of a switch is all of it.
    """
    kinds = _alternatives(kind)
    shown = dict.fromkeys(_one_metavar(part) for part in kinds if part is not types.NoneType)
    if None in shown:
        return None
    return " or ".join([*(text for text in shown if text), *[_NONE] * (types.NoneType in kinds)])


def _one_metavar(kind: Any) -> str | None:
    if kind is bool:
        return None
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        return f"{metavar(get_args(kind)[0])} ..."
    # A path is typed as any other word.
    return "STR" if kind is Path else str(kind.__name__).upper()


def _field(name: str, option: Option) -> tuple[str, Any, Any]:
    """One field of the dataclass that is parsed."""
    positional: Any = tyro.conf.Positional
    kind = positional[option.kind] if option.positional else option.kind
    # A choice shows its words; anything else that goes by place shows its name.
    by_name = option.positional and get_origin(option.kind) is not Literal
    shown = tyro.conf.arg(
        help=option.help,
        metavar=name.upper() if by_name else metavar(option.kind),
        help_behavior_hint=f"(default: {_NONE})" if option.default in (None, ()) else None,
    )
    default = dataclasses.MISSING if option.default is REQUIRED else option.default
    return name, cast("Any", Annotated)[kind, shown], dataclasses.field(default=default)


def _require_known(words: Sequence[str], options: Mapping[str, Option], command: str) -> None:
    """Refuse the first word that looks like an option and is none. Raises UsageError."""
    flags = {name.replace("_", "-") for name, option in options.items() if not option.positional}
    flags |= {f"no-{name.replace('_', '-')}" for name, option in options.items() if _plain(option.kind) is bool}
    asked = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--") and len(word) > 2]
    if "--help" in asked or "-h" in words:
        return
    for flag in asked:
        # What begins with "tyro" writes completions for shells.
        if flag.removeprefix("--") not in flags and not flag.startswith("--tyro-"):
            near = [f"--{name}" for name in nearest(flag.removeprefix("--"), flags)]
            hint = f"; did you mean {_listed(near)}?" if near else "."
            raise UsageError(f"there is no option {flag}{hint} co2ssl {command} --help lists them.")


def _spelt(words: Sequence[str], options: Mapping[str, Option]) -> Iterator[str]:
    """The words with ``none`` as the parser wants it, where an option may be none."""
    empty = {
        f"--{name.replace('_', '-')}"
        for name, option in options.items()
        if types.NoneType in _alternatives(option.kind)
    }
    before = ""
    for word in words:
        flag, equals, value = word.partition("=")
        name = flag.replace("_", "-")
        if equals and value == _NONE and name in empty:
            yield f"{flag}={_FOR_TYRO}"
        else:
            yield _FOR_TYRO if word == _NONE and before in empty else word
        before = name


def _alternatives(kind: Any) -> list[Any]:
    """The members of a union; of any other type that alone."""
    kind = _plain(kind)
    return [_plain(part) for part in (get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,))]


def _plain(kind: Any) -> Any:
    """A type without what is annotated to it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
