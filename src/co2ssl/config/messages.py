"""Turns what pydantic found into sentences for the person who typed it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from co2ssl.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


def near_match(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: ``"; did you mean X?"``, or a full stop when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def option(field: str) -> str:
    """Name of a field on the command line: ``batch_size`` is ``--batch-size``."""
    return "--" + field.replace("_", "-")


def require_known(names: Iterable[str], known: Sequence[str], *, what: str, where: str = "") -> None:
    """Refuses names that are not known.

    Raises:
        UsageError: for the first unknown name; suggests a near one and lists all.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"{where}unknown {what} {name!r}{near_match(name, known)} Known: {', '.join(known)}.")


def validated(model: type[Model], values: Mapping[str, Any], *, where: str = "") -> Model:
    """Builds a model from values.

    Args:
        model: the class to build.
        values: field -> value.
        where: names the file, for files; empty for options.

    Raises:
        UsageError: names each wrong field, its value and what was expected.
    """
    require_known(values, list(model.model_fields), what="field" if where else "option", where=where)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(where + " ".join(_sentence(entry, values) for entry in error.errors())) from None


def _sentence(entry: Any, values: Mapping[str, Any]) -> str:
    field = str(entry["loc"][0])
    if entry["type"] == "missing":
        return f"{field} is missing."
    expected = str(entry["msg"]).removeprefix("Input should be ").removeprefix("Input should ")
    return f"{field} ({option(field)}): {values[field]!r} is not allowed; expected {expected}."
