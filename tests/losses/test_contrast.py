"""Shapes that do not fit are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from co2ssl.losses import Noise, info_nce, nce
from tests.losses.cases import joined, table, unit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(5)}, r"query \(N, D\)"),
        ({"positive": unit(5, 5, seed=0)}, r"positive must be \(6, 5\)"),
        ({"positive": unit(6, 4, seed=0)}, "positive must be"),
        ({"negatives": unit(11, 4, seed=0)}, r"negatives must be \(K, 5\)"),
        ({"negatives": unit(5, 11, 5, seed=0)}, "negatives of their own for each row"),
        ({"negative_index": torch.zeros(6, 3)}, r"negative_index must be int64 \(6, J\)"),
        ({"negative_index": torch.zeros(6, 3, dtype=torch.int64), "negatives": unit(6, 11, 5, seed=0)}, "one table"),
        ({"row_id": torch.arange(6)}, "given together"),
        ({"row_id": torch.arange(5), "negative_id": torch.arange(11)}, r"row_id must be \(6,\)"),
        ({"row_id": torch.arange(6), "negative_id": torch.arange(10)}, r"negative_id must be \(11,\)"),
        ({"valid": torch.ones(6, 11)}, r"valid must be a bool tensor \(6, 11\)"),
        ({"also_positive": torch.ones(6, 10, dtype=torch.bool)}, "also_positive must be a bool tensor"),
        ({"partner": torch.arange(5)}, r"partner must be \(6,\)"),
        ({"partner": torch.arange(6).roll(3), "negatives": unit(6, 11, 5, seed=0)}, r"beside partner.*\(K, D\)"),
    ],
)
def test_shapes_are_checked(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(table(), **change)  # type: ignore[arg-type]


def test_nce_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="Noise"):
        nce(table(), temperature=0.1)
    with pytest.raises(ValueError, match="also_positive"):
        nce(replace(joined(), noise=Noise(10, 0.0)), temperature=0.1)
    with pytest.raises(ValueError, match="num_images"):
        Noise(0, 0.0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_is_a_share(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        info_nce(table(), temperature=0.1, label_smoothing=smoothing)


def test_label_smoothing_beside_joined_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        info_nce(joined(), temperature=0.1, label_smoothing=0.1)
