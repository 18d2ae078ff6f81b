"""Recipes by name: the YAML files of ``co2ssl/recipes``, ``+co2``, and the user's options on top."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from co2ssl.config.messages import near_match, require_known, validated
from co2ssl.config.recipe import Recipe, RunOptions, complaints, plan_complaints, process_complaints
from co2ssl.errors import UsageError

CO2_SUFFIX = "+co2"
DEFAULT_RECIPE = "moco-v2+co2"
"""What is run where no recipe is named, fitted to the images and the machine."""
CO2_FIELDS = (
    "consistency_weight",
    "consistency_temperature",
    "consistency_ramp_epochs",
    "consistency_direction",
    "detach_positive",
)
"""What the block ``co2`` of a recipe states; the block ``recipe`` states every other field."""
_SECTIONS = ("about", "recipe", "co2")

Mark = Literal["seen", "recalled", "ours"]
"""Where a value comes from: seen in the source named, recalled from the paper and unverified, or chosen here."""


class About(BaseModel):
    """The header of a recipe: what it promises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    paper: str
    """The method's paper."""
    table: str
    """Where the setting is published."""
    command: str
    """What runs it."""
    hardware: str
    """What it was published on."""
    hours: str
    """How long that took."""
    expected: str
    """The number it should reach without the consistency term."""
    expected_co2: str
    """The number it should reach with it."""


class Fact(BaseModel):
    """One value of a recipe with where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    value: Any
    mark: Mark
    source: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the value of a field comes from.

    Attributes:
        kind: the recipe, an option the user gave, ``--auto``, or the default of a run option.
        why: the mark and source of a recipe's value; the reason of a change.
    """

    kind: Literal["recipe", "option", "auto", "default"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}" if self.why else self.kind


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe with every value settled, and where each came from.

    Attributes:
        name: as it was asked for, ``moco-v2+co2``.
        about: the recipe's header.
        recipe: the values to run with.
        published: the values of the recipe file, before options and ``--auto``.
        origins: field -> where its value comes from.
    """

    name: str
    about: About
    recipe: Recipe
    published: Recipe
    origins: Mapping[str, Origin]

    @property
    def given(self) -> frozenset[str]:
        """Fields that the user fixed."""
        return frozenset(field for field, origin in self.origins.items() if origin.kind == "option")

    def changed(self, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Resolved:
        """A copy with other values of some fields.

        Raises:
            UsageError: an unknown field or a value that is not allowed.
        """
        recipe = validated(Recipe, {**self.recipe.model_dump(), **values})
        return replace(self, recipe=recipe, origins={**self.origins, **origins})


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """One line of ``co2ssl methods``.

    Attributes:
        recipe: its name.
        paper: the method's paper.
        table: where the setting is published.
        co2: whether ``+co2`` applies, with alpha, tau_con and their mark.
        marks: how many of its values are seen, recalled and ours (without the consistency term's).
    """

    recipe: str
    paper: str
    table: str
    co2: str
    marks: str


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package, without ``+co2``."""
    return tuple(sorted(Path(entry.name).stem for entry in _folder() if entry.name.endswith(".yaml")))


def recipe_table() -> list[RecipeRow]:
    """The recipes that come with the package, each with its paper and where its values come from."""
    rows = []
    for name in recipe_names():
        about, facts = _packaged(name)
        counts = Counter(fact.mark for field, fact in facts.items() if field not in CO2_FIELDS)
        alpha, tau = facts["consistency_weight"], facts["consistency_temperature"]
        rows.append(
            RecipeRow(
                recipe=name,
                paper=about.paper,
                table=about.table,
                co2=f"yes: alpha {alpha.value:g}, tau_con {tau.value:g} ({alpha.mark})",
                marks=", ".join(f"{counts[mark]} {mark}" for mark in ("seen", "recalled", "ours") if counts[mark]),
            )
        )
    return rows


def recipe_facts(name: str) -> dict[str, Fact]:
    """Value, mark and source of every field of a recipe that comes with the package.

    Raises:
        UsageError: an unknown recipe.
    """
    return dict(_packaged(_require_recipe(name))[1])


def load_recipe(name_or_path: str, *, overrides: Mapping[str, Any] | None = None, check: bool = True) -> Resolved:
    """Settles a recipe: its file, ``+co2`` or not, and the user's options on top.

    Without ``+co2`` the consistency weight is 0 and everything else is as with it: the two differ in one number.

    Args:
        name_or_path: the name of a recipe or a path that ends in ``.yaml``, either with or without ``+co2``.
        overrides: field -> value, the options that the user gave.
        check: whether to refuse a combination that cannot run; ``adapt`` needs it unchecked, and checks in the end.

    Raises:
        UsageError: no such recipe or field (with near matches, run options among them), a value that is not allowed,
            or fields that cannot run together.
    """
    base, co2 = name_or_path.removesuffix(CO2_SUFFIX), name_or_path.endswith(CO2_SUFFIX)
    if base.endswith((".yaml", ".yml")):
        about, facts = _read(_text_of(Path(base)), where=f"{base}: ")
    else:
        about, facts = _packaged(_require_recipe(name_or_path))
    values = {field: fact.value for field, fact in facts.items()}
    origins = {field: Origin(kind="recipe", why=f"{fact.mark}; {fact.source}") for field, fact in facts.items()}
    if not co2:
        values["consistency_weight"] = 0.0
        origins["consistency_weight"] = Origin(kind="recipe", why=f"no {CO2_SUFFIX}: L_con is only monitored")
    published = validated(Recipe, values, where=f"recipe {base}: ")
    resolved = Resolved(name=name_or_path, about=about, recipe=published, published=published, origins=origins)
    overrides = {field.replace("-", "_"): value for field, value in (overrides or {}).items()}
    # Whoever mistypes an option does not think of which of the two models it is part of.
    require_known(overrides, [*Recipe.model_fields, *RunOptions.model_fields], what="option")
    resolved = resolved.changed(overrides, {field: Origin(kind="option") for field in overrides})
    if check:
        require_runnable(resolved.recipe)
    return resolved


def require_runnable(recipe: Recipe, *, begun: bool = False) -> None:
    """Refuses a combination of fields that cannot run.

    Args:
        recipe: the combination.
        begun: whether it is of a run that has begun: then what only does nothing is passed over.

    Raises:
        UsageError: says what does not fit, and what to give instead.
    """
    _refuse(complaints(recipe) + ([] if begun else plan_complaints(recipe)))


def require_shared(recipe: Recipe, processes: int) -> None:
    """Refuses a recipe that so many processes cannot train together.

    Args:
        recipe: one that ``require_runnable`` has let pass.
        processes: on all machines; 1 where nothing is shared.

    Raises:
        UsageError: says what does not divide, or needs more processes, and what to give instead.
    """
    _refuse(process_complaints(recipe, processes))


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The doc line of every field of ``Recipe`` or ``RunOptions``, for help pages."""
    return {name: info.description or "" for name, info in model.model_fields.items()}


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise UsageError("; ".join(wrong) + ".")


def _folder() -> Iterable[Any]:
    from importlib import resources

    return resources.files("co2ssl").joinpath("recipes").iterdir()


def _require_recipe(name: str) -> str:
    names = recipe_names()
    base = name.removesuffix(CO2_SUFFIX)
    if base not in names:
        known = names if base == name else [known + CO2_SUFFIX for known in names]
        raise UsageError(
            f"unknown recipe {name!r}{near_match(name, known)} Known: {', '.join(names)}; "
            f"each also with {CO2_SUFFIX}, and the path of a .yaml file."
        )
    return base


@cache
def _packaged(name: str) -> tuple[About, dict[str, Fact]]:
    from importlib import resources

    text = resources.files("co2ssl").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")
    return _read(text, where=f"recipe {name}: ")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from None


def _read(text: str, *, where: str) -> tuple[About, dict[str, Fact]]:
    sections = parse_mapping(text, where=where)
    require_known(sections, _SECTIONS, what="section", where=where)
    for section in _SECTIONS:
        if not isinstance(sections.get(section), dict):
            raise UsageError(f"{where}the section {section!r} is missing; a recipe has {', '.join(_SECTIONS)}.")
    about = validated(About, sections["about"], where=f"{where}about: ")
    facts: dict[str, Fact] = {}
    for section in ("recipe", "co2"):
        expected = [field for field in Recipe.model_fields if (field in CO2_FIELDS) == (section == "co2")]
        require_known(sections[section], expected, what="field", where=f"{where}{section}: ")
        missing = [field for field in expected if field not in sections[section]]
        if missing:
            raise UsageError(f"{where}{section}: no value for {', '.join(missing)}; a recipe states every field.")
        for field, entry in sections[section].items():
            if not isinstance(entry, dict):
                raise UsageError(f"{where}{field}: write {{value: {entry}, mark: MARK, source: SOURCE}}.")
            facts[field] = validated(Fact, entry, where=f"{where}{field}: ")
    return about, facts


def parse_mapping(text: str, *, where: str) -> dict[str, Any]:
    """Reads YAML whose top level maps names to something.

    Raises:
        UsageError: text that is not YAML, or not such a mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}not YAML: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{where}expected names with values, found {type(value).__name__}.")
    return value
