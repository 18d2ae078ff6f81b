"""Ours beside facebookresearch/moco: the same start, views and permutations give the same numbers, to 1e-9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data.batch import Batch
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head, mlp_head
from co2ssl.losses.objective import Objective
from co2ssl.methods import moco as moco_module
from co2ssl.methods.moco import MoCo
from tests.parity import scenario

FIXTURE: dict[str, Any] = json.loads((Path(__file__).parent / "moco_fixture.json").read_text())
TOLERANCE = 1e-9


def our_moco(*, mlp: bool) -> MoCo:
    backbone = scenario.backbone()
    width = backbone.num_features
    assert isinstance(width, int)
    head = mlp_head(width, width, scenario.DIM) if mlp else linear_head(width, scenario.DIM)
    encoder = Encoder(backbone, head).double()
    scenario.fill(encoder)
    method = MoCo(encoder, queue_size=scenario.QUEUE, ema_keep=scenario.KEEP, permute_keys=True, seed=0).double()
    method.queue.keys.copy_(scenario.start_queue())
    return method


def off(ours: Tensor, theirs: list[Any]) -> float:
    return float((ours.detach() - torch.tensor(theirs, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("case", ["moco", "moco-v2"])
def test_ten_steps_equal_the_original(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared_permutation(_: int, *, step: int, length: int) -> NDArray[np.int64]:
        permutation: NDArray[np.int64] = scenario.permutation(step, length).numpy()
        return permutation

    monkeypatch.setattr(moco_module, "step_permutation", shared_permutation)
    expected = FIXTURE["cases"][case]
    method = our_moco(mlp=case == "moco-v2")
    objective = Objective(temperature=scenario.TEMPERATURE)
    optimizer = torch.optim.SGD(
        method.encoder.parameters(), scenario.LR, momentum=scenario.SGD_MOMENTUM, weight_decay=scenario.WEIGHT_DECAY
    )
    for number in range(scenario.STEPS):
        index = torch.arange(scenario.ROWS)
        step = method(Batch(views=scenario.views(number), index=index, label=None, step=number, epoch=0))
        (contrast,) = step.comparisons
        positive = (contrast.query * contrast.positive).sum(1, keepdim=True)
        logits = torch.cat([positive, contrast.query @ contrast.negatives.T], dim=1) / scenario.TEMPERATURE
        sums = objective(step.comparisons)
        loss = sums.total / scenario.ROWS
        key_weights = scenario.flat(method.key_encoder)
        assert off(logits, expected["steps"][number]["logits"]) < TOLERANCE
        assert off(loss, expected["steps"][number]["loss"]) < TOLERANCE
        assert off(contrast.positive, expected["steps"][number]["keys"]) < TOLERANCE
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.commit([step.update])
    # The original moves its key encoder before the keys' forward pass, ours after the optimiser's step: the
    # weights that made the last keys are the same.
    assert off(key_weights, expected["key_weights"]) < TOLERANCE
    assert off(method.queue.keys, expected["queue"]) < TOLERANCE


def test_the_fixture_says_where_it_comes_from() -> None:
    header = FIXTURE["header"]
    assert header["commit"].startswith("0d6137a")
    assert header["set_aside"]
