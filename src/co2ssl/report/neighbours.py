"""Nearest neighbours as a page shows them: which images a representation takes for alike."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from co2ssl.data.sources import Source
from co2ssl.evaluate.features import Features
from co2ssl.evaluate.knn import nearest

THUMBNAIL_SIDE = 72


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image in the page.

    Attributes:
        data_uri: the image itself.
        caption: where it comes from.
        label: name of its class, or None.
        same_class: whether it has the query's class; None for the query itself and where there are no labels.
        similarity: cosine similarity with the query, or None for the query itself.
    """

    data_uri: str
    caption: str
    label: str | None
    same_class: bool | None = None
    similarity: float | None = None


@dataclass(frozen=True, kw_only=True)
class NeighbourGrid:
    """One row of thumbnails for each query: the query, then its neighbours, nearest first."""

    name: str
    rows: Sequence[tuple[Thumbnail, Sequence[Thumbnail]]]


def neighbour_grid(
    name: str,
    bank: Features,
    queries: Features,
    *,
    bank_source: Source,
    query_source: Source,
    places: Sequence[int],
    count: int = 8,
    device: torch.device | str = "cpu",
) -> NeighbourGrid:
    """The ``count`` images of the bank most similar to each chosen query, by cosine of the features.

    Where queries and bank are the same object (a folder without a validation part), a query is not its own neighbour.

    Args:
        name: of the representation.
        bank: features of ``bank_source``; classes are compared with the queries' by name.
        queries: features of ``query_source``.
        places: rows of ``queries`` to show (:func:`choose_queries`); the same for every representation.
    """
    rows = torch.as_tensor(list(places), dtype=torch.int64)
    chosen = queries.rows(rows)
    same = bank is queries
    similarity, near = nearest(bank.features, chosen.features, k=min(count + same, len(bank)), device=device)
    grid = []
    for row, own in enumerate(places):
        query = thumbnail(query_source, int(chosen.index[row]), label=_label(chosen, row))
        found = [
            thumbnail(
                bank_source,
                int(bank.index[place]),
                label=_label(bank, place),
                query_label=query.label,
                similarity=score,
            )
            for score, place in zip(similarity[row].tolist(), near[row].tolist(), strict=True)
            if not (same and place == own)
        ]
        grid.append((query, found[:count]))
    return NeighbourGrid(name=name, rows=grid)


def choose_queries(features: Features, *, count: int = 6, seed: int = 0) -> list[int]:
    """Rows to show, seeded: each of another class, or any where there are no labels."""
    order = np.random.default_rng(seed).permutation(len(features))
    if features.labels is None:
        return [int(place) for place in order[:count]]
    _, first = np.unique(features.labels.numpy()[order], return_index=True)
    return [int(order[place]) for place in np.sort(first)[:count]]


def thumbnail(
    source: Source,
    index: int,
    *,
    label: str | None = None,
    query_label: str | None = None,
    similarity: float | None = None,
) -> Thumbnail:
    """Image ``index`` of the source, at most ``THUMBNAIL_SIDE`` pixels a side."""
    same = None if label is None or query_label is None else label == query_label
    return Thumbnail(
        data_uri=_data_uri(source.load(index)),
        caption=source.describe(index),
        label=label,
        same_class=same,
        similarity=similarity,
    )


def _label(features: Features, row: int) -> str | None:
    if features.labels is None or features.classes is None:
        return None
    return features.classes[int(features.labels[row])]


def _data_uri(image: NDArray[np.uint8]) -> str:
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
