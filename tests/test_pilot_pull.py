"""How hard both parts of the loss pull in the first steps, beside the loss and a training without that look."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import co2ssl
from benchmarks.pilot import pull
from benchmarks.pilot.settings import METHODS, PAIRED
from benchmarks.runs import Planned, read_events
from co2ssl.config import load_recipe
from co2ssl.data.sources import open_source
from co2ssl.losses import Contrast, consistency, contrastive_loss
from tests.images import TINY, write_classes

SMALL = {name: value for name, value in TINY.items() if name in load_recipe("moco-small-64").recipe.model_dump()}


def small(planned: Planned) -> Planned:
    return replace(planned, options={**planned.options, **SMALL, "epochs": 4, "precision": "float32"})


def test_the_two_gradients_add_up_to_that_of_the_loss() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    images, others = torch.randn(5, 6, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)

    def unit(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows, dim=1)

    def contrast() -> Contrast:
        return Contrast(query=unit(layer(images)), positive=unit(others[:5]), negatives=unit(others))

    recipe = load_recipe("moco-small-64+co2").recipe
    weights = list(layer.parameters())
    values, of_instance, of_term = pull._parts(contrast(), weights, recipe)
    loss = contrastive_loss(
        contrast(),
        temperature=recipe.temperature,
        consistency_weight=recipe.consistency_weight,
        consistency_temperature=recipe.consistency_temperature,
    )
    for whole, one, two in zip(torch.autograd.grad(loss.total, weights), of_instance, of_term, strict=True):
        torch.testing.assert_close(one + two, whole)
    term = recipe.consistency_weight * consistency(contrast(), temperature=recipe.consistency_temperature)
    squares = sum(float(part.square().sum()) for part in torch.autograd.grad(term, weights))
    assert values["pull_of_term"] == pytest.approx(squares**0.5)
    assert values["instance"] == pytest.approx(float(loss.instance))
    assert values["consistency"] == pytest.approx(float(loss.consistency))
    # A part agrees with itself.
    assert -1 <= values["agreement"] <= 1


@pytest.mark.parametrize("name", ["moco-seed-0", "moco-v2+co2-seed-0"])
def test_the_steps_are_those_of_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking does not change the training: the losses are those in the log of the same run."""
    monkeypatch.setattr(pull, "AVERAGED", 1)
    write_classes(tmp_path / "images", classes=2, each=20)
    (planned,) = [small(planned) for planned in PAIRED if planned.name == name]
    options: dict[str, Any] = {**planned.options, "log_every": 1, "workers": 0, "device": "cpu", "quiet": True}
    run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", recipe=planned.recipe, **options)
    logged = [event for event in read_events(run.folder) if event["event"] == "train"]
    # Gradients are rounded before they are added up here, and a network this small carries that on: by the fifth step
    # the two are a hundredth apart, while the second step already tells whether the term was in the first.
    seen = pull.pulls(planned, open_source(str(tmp_path / "images")), steps=3, workers=0)
    for one, event in zip(seen, logged[:3], strict=True):
        assert one["step"] == event["step"]
        assert one["instance"] == pytest.approx(event["instance"], rel=1e-3)
        assert one["consistency"] == pytest.approx(event["consistency"], rel=1e-3)
        assert one["pull_of_instance"] > 0
        assert one["pull_of_term"] > 0


def test_values_are_means() -> None:
    assert pull._means([{"one": 1.0, "two": 5.0}, {"one": 2.0, "two": 7.0}]) == {"one": 1.5, "two": 6.0}


def test_both_methods_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_classes(tmp_path / "data/train", classes=2, each=12)
    monkeypatch.setattr(pull, "PAIRED", tuple(map(small, PAIRED)))
    out = tmp_path / "pull.json"
    pull.main([str(tmp_path / "data"), "--steps", "12", "--workers", "0", "--out", str(out)])
    written = json.loads(out.read_text())
    assert set(written["result"]) == {f"{method}{term}-seed-0" for method in METHODS for term in ("", "+co2")}
    # What is not a whole ten is left out.
    assert {len(seen) for seen in written["result"].values()} == {1}
    assert {"command", "commit", "cpu", "torch"} <= set(written)
    assert str(tmp_path) not in out.read_text()


def test_around_one_point_the_term_goes_with_the_fourth_power_and_l_ins_with_the_square() -> None:
    """What docs/pilot.md explains the collapse by: distances to the point are halved, again and again."""
    generator = torch.Generator().manual_seed(0)
    point = normalize(torch.randn(16, generator=generator, dtype=torch.float64), dim=0)
    query, positive, negatives = (
        torch.randn(count, 16, generator=generator, dtype=torch.float64) for count in (8, 8, 64)
    )
    gains, costs = [], []
    for halvings in range(6, 9):
        q, p, n = (normalize(point + away * 0.5**halvings, dim=1) for away in (query, positive, negatives))
        loss = contrastive_loss(
            Contrast(query=q, positive=p, negatives=n),
            temperature=0.07,
            consistency_weight=10.0,
            consistency_temperature=0.04,
        )
        gains.append(abs(float(loss.instance) - math.log(65)))
        costs.append(float(loss.consistency))
    for larger, smaller in pairwise(gains):
        assert math.log2(larger / smaller) == pytest.approx(2, abs=0.2)
    for larger, smaller in pairwise(costs):
        assert math.log2(larger / smaller) == pytest.approx(4, abs=0.2)
