from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from co2ssl.data.loader import Loader
from co2ssl.encoders.resnet import resnet
from co2ssl.evaluate.label_draws import Draw, train_draws
from co2ssl.evaluate.label_subsets import draw_subset
from co2ssl.evaluate.label_training import LabelTraining, TrainingSettings, with_head
from co2ssl.evaluate.supervised import supervised, supervised_settings
from tests.evaluate.planted import SIDE, stripes


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return resnet("resnet10", width=0.125, stem="small")


def settings(**changed: Any) -> TrainingSettings:
    return supervised_settings(SIDE, **{"epochs": 3, "batch_size": 12, **changed})


def test_it_learns_from_nothing_what_can_be_learnt() -> None:
    train, val = stripes(150), stripes(200, seed=1, name="val", mislabelled=0.2)
    result = supervised(fresh, train, val, [None], settings(epochs=12, batch_size=20))
    top1 = result["top1"]
    assert isinstance(top1, float)
    # Four in five labels are right, and guessing gives one in three.
    assert 0.72 < top1 <= 0.8
    assert (result["num_train"], result["top1_std"]) == (150, None)


def test_the_published_values_are_the_defaults() -> None:
    usual = supervised_settings(224)
    assert (usual.epochs, usual.batch_size, usual.backbone_lr, usual.head_lr) == (90, 256, 0.1, 0.1)
    assert (usual.momentum, usual.weight_decay, usual.drop_factor, usual.drop_epochs) == (0.9, 1e-4, 0.1, (30, 60))
    assert supervised_settings(32, epochs=10).drop_epochs == (3, 7)


def test_the_published_learning_rates_epoch_by_epoch() -> None:
    chosen = supervised_settings(SIDE, batch_size=2)
    tiny = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    network = with_head(tiny, 3, chosen, seed=0)
    training = LabelTraining(network, chosen, steps_per_epoch=1, seed=0)
    loader = Loader(stripes(3), chosen.crops, batch_size=2, seed=0, workers=0)
    rates = []
    for epoch in range(90):
        for batch in loader.epoch(epoch):
            training.take(batch)
        rates.append([group["lr"] for group in training.optimizer.param_groups])
    table = np.repeat([0.1, 0.01, 0.001], 30)
    np.testing.assert_allclose(rates, np.stack([table, table], axis=1), rtol=1e-12)


def test_every_training_begins_with_weights_of_its_own_and_is_what_it_is_alone() -> None:
    train, val = stripes(36), stripes(30, seed=1, name="val")
    kept: list[nn.Module] = []
    parts = [draw_subset(train, "50%", seed=seed) for seed in (4, 5)]
    result = supervised(fresh, train, val, parts, settings(), seed=4, keep=lambda _, own: kept.append(own))
    assert json.loads(json.dumps(result)) == result
    rows = result["draws"]
    assert isinstance(rows, list)
    assert [(row["seed"], row["num_train"], row["subset"]) for row in rows] == [
        (4, 18, "50% drawn with seed 4"),
        (5, 18, "50% drawn with seed 5"),
    ]
    first, second = (next(own.parameters()) for own in kept)
    assert not torch.equal(first, second)
    again = supervised(fresh, train, val, parts[1:], settings(), seed=5, keep=lambda _, own: kept.append(own))
    assert torch.equal(next(kept[2].parameters()), second)
    assert again["top1"] == rows[1]["top1"]


def test_all_labels_are_the_whole_source() -> None:
    train, val = stripes(24), stripes(30, seed=1, name="val")
    kept: list[nn.Module] = []
    result = supervised(fresh, train, val, [None], settings(), seed=2, keep=lambda _, own: kept.append(own))
    draws = [Draw(seed=2, source=train, backbone=lambda: fresh(2))]
    row = train_draws(draws, val, settings(), title="t", keep=lambda _, own: kept.append(own))[0]
    assert (result["top1"], result["num_train"]) == (row["top1"], 24)
    for one, other in zip(kept[0].parameters(), kept[1].parameters(), strict=True):
        assert torch.equal(one, other)
    rows = result["draws"]
    assert isinstance(rows, list)
    assert "subset" not in rows[0]
