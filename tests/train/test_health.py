"""Spread and effective rank against loops over their definitions, and the words that go with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from co2ssl.train.health import (
    CollapseWatch,
    collapse_advice,
    collapse_warning,
    effective_rank,
    embedding_health,
    spread,
)


def slow_spread(rows: list[list[float]]) -> float:
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    width = len(unit[0])
    deviations = []
    for d in range(width):
        column = [row[d] for row in unit]
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    return sum(deviations) / width * math.sqrt(width)


def slow_rank(rows: torch.Tensor) -> float:
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    values = np.sqrt(np.clip(np.linalg.eigvalsh(unit.T @ unit), 0, None))
    share = [value / values.sum() for value in values if value > 0]
    return math.exp(-sum(p * math.log(p) for p in share))


def test_both_are_their_definitions() -> None:
    rows = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    assert spread(rows) == pytest.approx(slow_spread(rows.tolist()), rel=1e-12)
    assert effective_rank(rows) == pytest.approx(slow_rank(rows), rel=1e-9)
    assert spread(3 * rows) == pytest.approx(spread(rows))


def test_a_uniform_sphere_is_healthy_and_one_point_is_not() -> None:
    uniform = torch.randn(4096, 32, generator=torch.Generator().manual_seed(1))
    assert spread(uniform) == pytest.approx(1, abs=0.01)
    assert effective_rank(uniform) == pytest.approx(32, rel=0.01)
    assert "warning" not in embedding_health(uniform)

    point = torch.ones(64, 32) + 1e-4 * uniform[:64]
    assert spread(point) < 0.001
    assert effective_rank(point) == pytest.approx(1, abs=0.02)
    assert "almost the same" in str(embedding_health(point)["warning"])

    line = torch.zeros(64, 64)
    line[:, 0] = torch.tensor([1.0, -1.0]).repeat(32)
    line[:, 1] = torch.linspace(-1, 1, 64)
    assert effective_rank(line) <= 2
    assert "directions" in str(collapse_warning(0.9, effective_rank(line), 64))


def test_the_advice_knows_of_the_consistency_term() -> None:
    plain = collapse_advice(consistency_weight=0.0, ramp_epochs=0, epochs=60)
    assert plain == "try a lower learning rate, or more negatives"
    at_once = collapse_advice(consistency_weight=10.0, ramp_epochs=0, epochs=60)
    assert "--consistency-ramp-epochs 60" in at_once
    assert "--consistency-weight (10)" in at_once
    # A ramp over the whole run cannot be longer.
    whole = collapse_advice(consistency_weight=10.0, ramp_epochs=60, epochs=60)
    assert "ramp" not in whole
    assert "--consistency-weight" in whole
    point = torch.ones(8, 4)
    assert str(embedding_health(point, advice=whole)["warning"]).endswith(whole)
    assert str(collapse_warning(0.9, 1.5, 64, advice=whole)).endswith(whole)


def test_orthogonal_rows_have_all_ranks() -> None:
    assert effective_rank(torch.eye(8)) == pytest.approx(8)


def test_one_row_says_nothing() -> None:
    with pytest.raises(ValueError, match="two rows"):
        spread(torch.ones(1, 4))


def watched(total_steps: int, *, bad: bool = True) -> CollapseWatch:
    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        return {"spread": 0.1, **({"warning": "almost the same: try"} if bad else {})}

    return CollapseWatch(probe, total_steps=total_steps)


@pytest.mark.parametrize(
    ("total_steps", "step", "heard"),
    [
        (1_000, 199, False),
        (1_000, 200, True),
        (10_000, 999, False),
        (10_000, 1_000, True),
        (50, 49, False),
        (50, 50, True),
    ],
)
def test_collapse_is_no_news_at_the_start_of_a_run(total_steps: int, step: int, heard: bool) -> None:
    found = watched(total_steps)(step, nn.Identity())
    assert found["spread"] == 0.1
    assert ("warning" in found) == heard
    assert watched(total_steps, bad=False)(step, nn.Identity()) == {"spread": 0.1}


def test_a_run_that_ends_collapsed_says_so() -> None:
    watch = watched(1_000)
    heard = [(watch(step, nn.Identity())["warning"], watch.at_the_end) for step in (500, 1_000)]
    ended = "at the end of the run almost the same: try"
    assert heard == [("almost the same: try", None), (ended, ended)]
    few = watched(60)
    few(60, nn.Identity())
    assert few.at_the_end == (
        "at the end of the run almost the same: try; but 60 steps say little: train for more --epochs first"
    )
    fine = watched(1_000, bad=False)
    fine(1_000, nn.Identity())
    assert fine.at_the_end is None
