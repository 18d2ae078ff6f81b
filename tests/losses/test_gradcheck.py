"""Finite differences in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from co2ssl.losses import Contrast, contrastive_loss
from co2ssl.losses.engine import Implementation
from tests.losses.cases import CASES, leaves, tiny_blocks


@pytest.mark.parametrize("needs_negatives", [True, False])
@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize(
    "case", ["table_with_ids", "many_positives", "joined", "draws_with_everything", "own_sets", "clipped"]
)
def test_gradcheck(case: str, implementation: Implementation, needs_negatives: bool) -> None:
    contrast, vectors = leaves(CASES[case](), negatives=needs_negatives)
    fields = {name: getattr(contrast, name) for name in contrast.__dataclass_fields__}

    def total(query: Tensor, positive: Tensor, negatives: Tensor | None = None) -> Tensor:
        given = fields | {"query": query, "positive": positive}
        if negatives is not None:
            given["negatives"] = negatives
        return contrastive_loss(
            Contrast(**given),
            temperature=0.3,
            consistency_weight=2.0,
            consistency_temperature=0.2,
            reduction="none",
            implementation=implementation,
        ).total

    with tiny_blocks():
        assert torch.autograd.gradcheck(total, vectors, fast_mode=True)
