"""Accuracies that the papers' tables report, typed into ``published.yaml`` with mark and source."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

Metric = Literal["top1", "top5", "map_11point"]


class PublishedValue(BaseModel):
    """One number of a table.

    Attributes:
        value: in percent.
        mark: seen in the source, or recalled from the paper and unverified.
        note: what sets it apart from the rest of its table; empty: nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    value: float
    mark: Literal["seen", "recalled"]
    note: str = ""


class PublishedTable(BaseModel):
    """The numbers of one protocol on one data set.

    Attributes:
        metric: what of a result they are comparable with.
        data: what they were measured on.
        source: where they are printed.
        rows: recipe, with ``+co2`` or not, to its number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    metric: Metric
    data: Literal["ImageNet", "ImageNet-100", "VOC07"]
    source: str
    rows: dict[str, PublishedValue]


@cache
def published_tables() -> dict[str, list[PublishedTable]]:
    """Every table, by protocol: linear, finetune-1%, finetune-10%, supervised, supervised-1%, supervised-10%, svm."""
    import yaml

    text = resources.files("co2ssl").joinpath("evaluate", "published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, list[PublishedTable]]).validate_python(yaml.safe_load(text))


def published(protocol: str, recipe: str) -> tuple[PublishedTable, PublishedValue] | None:
    """The number that a paper prints for a recipe under a protocol, with the table it is from; None: there is none."""
    for table in published_tables().get(protocol, ()):
        if recipe in table.rows:
            return table, table.rows[recipe]
    return None
