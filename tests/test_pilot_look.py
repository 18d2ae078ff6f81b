"""What the pilot counts about negatives of the query's class, against explicit loops and a planted case."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import co2ssl
from benchmarks.pilot.look import class_shares, look
from co2ssl.data.sources import open_source
from tests.images import TINY, write_classes, write_images


def test_against_explicit_loops() -> None:
    torch.manual_seed(0)
    query, positive, negatives = (normalize(torch.randn(rows, 5, dtype=torch.float64)) for rows in (4, 4, 9))
    same = torch.rand(4, 9) < 0.4
    same[:, 0], same[:, 1] = True, False
    counted = torch.rand(4, 9) < 0.8
    counted[:, :2] = True
    found = class_shares(query, positive, negatives, same=same, counted=counted, temperature=0.1)
    alike, unlike, mass_p, chance = [], [], [], []
    for row in range(4):
        entries = [k for k in range(9) if counted[row, k]]
        own = [k for k in entries if same[row, k]]
        alike.append(sum(float(query[row] @ negatives[k]) for k in own) / len(own))
        rest = [k for k in entries if k not in own]
        unlike.append(sum(float(query[row] @ negatives[k]) for k in rest) / len(rest))
        weights = {k: math.exp(float(positive[row] @ negatives[k]) / 0.1) for k in entries}
        mass_p.append(sum(weights[k] for k in own) / sum(weights.values()))
        chance.append(len(own) / len(entries))
    for value, rows in (
        (found.same, alike),
        (found.other, unlike),
        (found.mass_of_p, mass_p),
        (found.by_chance, chance),
    ):
        assert value == pytest.approx(sum(rows) / 4, rel=1e-6)


def test_an_encoder_that_knows_the_classes() -> None:
    """One direction a class: all of P's mass is on the query's class, whatever the share by chance."""
    labels, of_queue = torch.arange(3), torch.arange(3).repeat(4)
    table = torch.eye(3)
    found = class_shares(
        table[labels],
        table[labels],
        table[of_queue],
        same=labels[:, None] == of_queue,
        counted=torch.ones(3, 12, dtype=torch.bool),
        temperature=0.02,
    )
    assert (found.same, found.other, found.pair) == (1.0, 0.0, 1.0)
    assert found.mass_of_p == pytest.approx(1.0)
    assert found.by_chance == pytest.approx(1 / 3)


def test_a_run_is_looked_at(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", classes=2, each=20)
    run = co2ssl.pretrain(
        tmp_path / "images", out=tmp_path / "run", recipe="moco-small-32+co2", quiet=True, **{**TINY, "epochs": 2}
    )
    source = open_source(str(tmp_path / "images"))
    for trained in (True, False):
        shares = look(run.folder, source, trained=trained)
        assert 0.3 < shares.by_chance < 0.7
        assert 0 <= shares.mass_of_p <= 1
        assert -1 <= shares.other <= 1
    write_images(tmp_path / "plain", 4)
    with pytest.raises(ValueError, match="has no labels to look with"):
        look(run.folder, open_source(str(tmp_path / "plain")))
