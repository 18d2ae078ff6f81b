from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from co2ssl.config import recipe_names
from co2ssl.evaluate.published import published, published_tables

TABLES: list[list[list[Any]]] = list(
    yaml.safe_load((Path(__file__).parents[1] / "published.yaml").read_text(encoding="utf-8")).values()
)


def stated(protocol: str, data: str, metric: str, mark: str) -> dict[str, float]:
    """What the package holds: recipe to value, of tables and rows that are as expected."""
    tables = [table for table in published_tables()[protocol] if (table.data, table.metric) == (data, metric)]
    return {name: row.value for table in tables for name, row in table.rows.items() if row.mark == mark}


def test_the_numbers_are_those_of_the_tables() -> None:
    table1, table2, table3, ablation = TABLES
    assert stated("linear", "ImageNet", "top1", "seen") == dict(table1)
    assert stated("linear", "ImageNet-100", "top1", "recalled") == dict(ablation)
    assert stated("svm", "VOC07", "map_11point", "seen") == dict(table3)
    for place, share in ((1, "1%"), (2, "10%")):
        expected = {row[0]: row[place] for row in table2}
        scratch = stated(f"supervised-{share}", "ImageNet", "top5", "seen")
        assert {**scratch, **stated(f"finetune-{share}", "ImageNet", "top5", "seen")} == expected
        assert list(scratch) == ["supervised"]
    assert stated("supervised", "ImageNet", "top1", "seen") == {"supervised": table1[0][1]}


def test_nothing_else_is_stated() -> None:
    counted = sum(len(table.rows) for tables in published_tables().values() for table in tables)
    rows1, rows2, rows3, ablation = map(len, TABLES)
    # Of Table 1 the supervised row stands twice: as features, and as a training.
    assert counted == rows1 + 1 + 2 * rows2 + rows3 + ablation


def test_what_is_of_another_protocol_says_so() -> None:
    for recipe in ("rotation", "jigsaw", "insdisc", "pirl"):
        found = published("svm", recipe)
        assert found is not None
        assert "best of the layers" in found[1].note
    for protocol, recipe, words in (
        ("linear", "jigsaw", "res4"),
        ("linear", "cpc-v2", "61.0"),
        ("svm", "insdisc", "NPID++"),
        ("supervised-1%", "supervised", "Zhai"),
        ("supervised-10%", "supervised", "Zhai"),
    ):
        found = published(protocol, recipe)
        assert found is not None
        assert words in found[1].note


def test_published_recipes_have_their_number_and_small_ones_have_none() -> None:
    for name in ("moco", "moco-v2", "moco-imagenet100", "simclr"):
        assert name in recipe_names()
        assert published("linear", name) is not None
    for name in ("moco-small-64", "moco-small-64+co2", "simclr+co2"):
        assert published("linear", name) is None
    assert published("knn", "moco") is None
