"""Every recipe against the published facts, value by value and mark by mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from co2ssl.config import Recipe, load_recipe, recipe_facts, recipe_names, recipe_table, require_runnable
from co2ssl.config.library import CO2_FIELDS

FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "facts.yaml").read_text(encoding="utf-8"))
UNPUBLISHED = ("moco-v2-demo",)
"""Recipes whose values are tuned for the machine at hand, and so stand in one place only."""


def expected(name: str) -> dict[str, tuple[Any, str]]:
    entry = FACTS[name]
    values = {field: (value, "ours") for field, value in entry.get("ours", {}).items()}
    return values | {field: (value, mark) for field, (value, mark, _) in entry["facts"].items()}


def test_facts_cover_every_recipe() -> None:
    assert set(FACTS) == set(recipe_names()) - set(UNPUBLISHED)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_recipe_equals_the_facts(name: str) -> None:
    facts = expected(name)
    assert set(facts) == set(Recipe.model_fields)
    stated = {field: (fact.value, fact.mark) for field, fact in recipe_facts(name).items()}
    assert stated == facts
    assert all(type(stated[field][0]) is type(facts[field][0]) for field in facts)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_every_fact_has_a_source(name: str) -> None:
    assert "source" in FACTS[name] or "ours" not in FACTS[name]
    assert all(isinstance(source, str) and source for _, _, source in FACTS[name]["facts"].values())
    assert all(fact.source.strip() for fact in recipe_facts(name).values())


@pytest.mark.parametrize("name", recipe_names())
def test_co2_changes_the_weight_and_nothing_else(name: str) -> None:
    without, with_co2 = load_recipe(name).recipe, load_recipe(f"{name}+co2").recipe
    assert without.consistency_weight == 0.0
    assert with_co2.consistency_weight > 0.0
    assert without.model_dump(exclude={"consistency_weight"}) == with_co2.model_dump(exclude={"consistency_weight"})
    require_runnable(with_co2)


@pytest.mark.parametrize(
    ("name", "alpha", "tau_con"), [("moco", 10.0, 0.04), ("moco-v2", 0.3, 0.05), ("simclr", 1.0, 0.07)]
)
def test_small_forms_keep_alpha_and_tau_con(name: str, alpha: float, tau_con: float) -> None:
    for form in ("", "-small-32", "-small-64"):
        recipe = load_recipe(f"{name}{form}+co2").recipe
        assert (recipe.consistency_weight, recipe.consistency_temperature) == (alpha, tau_con)


@pytest.mark.parametrize(("name", "rate"), [("simclr", 0.3), ("simclr-small-32", 1.0), ("simclr-small-64", 1.0)])
def test_rates_of_simclr_are_those_of_its_commands_for_the_whole_batch(name: str, rate: float) -> None:
    # google-research/simclr: --learning_rate is for 256 images, and scaled linearly; here lr is the highest rate.
    recipe = load_recipe(name).recipe
    assert recipe.lr == pytest.approx(rate * recipe.batch_size / 256)


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - {"moco", "moco-v2", "simclr", "moco-imagenet100"}))
def test_small_forms_are_marked_ours(name: str) -> None:
    marks = {field: fact.mark for field, fact in recipe_facts(name).items() if field not in CO2_FIELDS}
    assert {field for field, mark in marks.items() if mark != "ours"} == {"method"}


def test_table_says_where_values_come_from() -> None:
    rows = {row.recipe: row for row in recipe_table()}
    assert rows["moco"].marks == "29 seen"
    assert rows["moco"].co2 == "yes: alpha 10, tau_con 0.04 (recalled)"
    assert rows["simclr"].co2 == "yes: alpha 1, tau_con 0.07 (ours)"
    assert "1911.05722" in rows["moco"].paper
    assert list(rows) == list(recipe_names())
