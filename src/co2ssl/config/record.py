"""What a run was: its resolved recipe, options and data, written to ``config.yaml`` and read back strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from co2ssl.config.library import About, Origin, Resolved, parse_mapping, require_runnable
from co2ssl.config.messages import require_known, validated
from co2ssl.config.recipe import Recipe, RunOptions
from co2ssl.errors import UsageError

RESULT_OPTIONS = ("precision", "seed")
"""Options that change what comes out. The rest changes its rounding at most, and may be another when a run goes on."""
_SECTIONS = ("name", "hash", "about", "data", "recipe", "options")


class DataRecord(BaseModel):
    """The images of a run.

    Attributes:
        source: where they were found.
        num_images: how many.
        fingerprint: of their names, or of what is in them where they are in no files.
        sizes: hash of the sizes of some of their files; empty where they are in none, or an older version wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    source: str
    num_images: int
    fingerprint: str
    sizes: str = ""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that settles a run.

    Attributes:
        resolved: the recipe with where each value comes from (``published`` is not kept in the file).
        options: how it is run here.
        option_origins: field of the options -> where its value comes from; fields left out have their default.
        data: the images.
    """

    resolved: Resolved
    options: RunOptions
    data: DataRecord
    option_origins: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Says whether two runs are the same experiment; see ``content_hash``."""
        return content_hash(self.resolved.recipe, self.options, self.data.fingerprint)

    def to_yaml(self) -> str:
        """The text of ``config.yaml``: every value with where it comes from."""
        recipe, options = self.resolved.recipe.model_dump(mode="json"), self.options.model_dump(mode="json")
        sections = {
            "name": self.resolved.name,
            "hash": self.hash,
            "about": self.resolved.about.model_dump(),
            "data": self.data.model_dump(),
        }
        lines = [
            "# The resolved configuration of this run; `co2ssl pretrain --resume` reads it back.\n",
            _dump(sections),
        ]
        lines += ["recipe:\n", *(_entry(name, recipe[name], str(self.resolved.origins[name])) for name in recipe)]
        lines += ["options:\n"]
        lines += [_entry(name, options[name], str(self.option_origins.get(name, "default"))) for name in options]
        return "".join(lines)


def content_hash(recipe: Recipe, options: RunOptions, data_fingerprint: str) -> str:
    """Sixteen hex digits that are equal when recipe, result-changing options and images are equal."""
    chosen = {name: getattr(options, name) for name in RESULT_OPTIONS}
    content = {"recipe": recipe.model_dump(mode="json"), "options": chosen, "data": data_fingerprint}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def resolve_options(overrides: Mapping[str, Any] | None = None) -> RunOptions:
    """The run options with what the user gave.

    Raises:
        UsageError: an unknown option (with near matches) or a value that is not allowed.
    """
    return validated(RunOptions, {name.replace("-", "_"): value for name, value in (overrides or {}).items()})


def read_run_config(path: Path | str) -> RunConfig:
    """Reads ``config.yaml`` of a run folder.

    Raises:
        UsageError: no such file, a field that is unknown, missing or not allowed, or values that do not fit the hash.
    """
    where = f"{path}: "
    try:
        sections = parse_mapping(Path(path).read_text(encoding="utf-8"), where=where)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration of a run at {path}: {error}") from None
    require_known(sections, _SECTIONS, what="section", where=where)
    for section in _SECTIONS:
        if section not in sections:
            raise UsageError(f"{where}the section {section!r} is missing; this is not the configuration of a run.")
    values, origins = _split(sections["recipe"], where=f"{where}recipe: ")
    option_values, option_origins = _split(sections["options"], where=f"{where}options: ")
    recipe = validated(Recipe, values, where=f"{where}recipe: ")
    require_runnable(recipe, begun=True)
    about = validated(About, sections["about"], where=f"{where}about: ")
    config = RunConfig(
        resolved=Resolved(name=str(sections["name"]), about=about, recipe=recipe, published=recipe, origins=origins),
        options=validated(RunOptions, option_values, where=f"{where}options: "),
        data=validated(DataRecord, sections["data"], where=f"{where}data: "),
        option_origins={name: origin for name, origin in option_origins.items() if str(origin) != "default"},
    )
    if config.hash != sections["hash"]:
        raise UsageError(
            f"{where}its values have been edited since the run began (hash {sections['hash']}, now {config.hash})."
        )
    return config


def _entry(name: str, value: Any, origin: str) -> str:
    return f"  {name}: {{value: {_flow(value)}, from: {_flow(origin)}}}\n"


def _flow(value: Any) -> str:
    # JSON is YAML, but for floats such as 1e-06, which PyYAML reads as a string.
    if isinstance(value, float):
        import yaml

        return yaml.safe_dump(value).split("\n", 1)[0]
    return json.dumps(value, ensure_ascii=False)


def _dump(value: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000))


def _split(section: Any, *, where: str) -> tuple[dict[str, Any], dict[str, Origin]]:
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    if not isinstance(section, dict):
        raise UsageError(f"{where}expected fields with values.")
    for name, entry in section.items():
        if not isinstance(entry, dict) or set(entry) != {"value", "from"} or not isinstance(entry["from"], str):
            raise UsageError(f"{where}{name}: expected {{value: ..., from: ...}}, found {entry!r}.")
        kind, _, why = entry["from"].partition(": ")
        if kind not in ("recipe", "option", "auto", "default"):
            raise UsageError(f"{where}{name}: expected 'from' to be recipe, option, auto or default, found {kind!r}.")
        values[name] = entry["value"]
        origins[name] = Origin(kind=cast("Literal['recipe', 'option', 'auto', 'default']", kind), why=why)
    return values, origins
