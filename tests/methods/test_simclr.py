from __future__ import annotations

import math

import pytest
import torch

from co2ssl.data.batch import Batch
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import mlp_head
from co2ssl.encoders.resnet import resnet
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.objective import Objective
from co2ssl.methods.simclr import SimCLR


def simclr() -> SimCLR:
    torch.manual_seed(0)
    backbone = resnet("resnet18", width=1 / 16, stem="small")
    return SimCLR(Encoder(backbone, mlp_head(backbone.num_features, 16, 8))).double()


def a_batch(rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = tuple(torch.randn(rows, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(views=views, index=torch.arange(rows) * 3, label=None, step=0, epoch=0)


def test_the_loss_is_nt_xent_by_its_definition() -> None:
    method, batch = simclr(), a_batch()
    (contrast,) = method(batch).comparisons
    assert isinstance(contrast, Contrast)
    vectors = contrast.query.detach()
    rows = len(vectors) // 2
    expected = 0.0
    for i in range(2 * rows):
        partner = (i + rows) % (2 * rows)
        scores = [math.exp(float(vectors[i] @ vectors[k]) / 0.5) for k in range(2 * rows) if k != i]
        expected -= math.log(math.exp(float(vectors[i] @ vectors[partner]) / 0.5) / sum(scores)) / (2 * rows)
    sums = Objective(temperature=0.5)(method(batch).comparisons)
    assert float(sums.total.detach()) / sums.count == pytest.approx(expected, rel=1e-12)
    assert sums.count == 2 * rows


def test_gradient_reaches_the_encoder_through_all_three_roles() -> None:
    method, batch = simclr(), a_batch()
    step = method(batch)
    (contrast,) = step.comparisons
    assert isinstance(contrast, Contrast)
    assert contrast.query.requires_grad
    assert contrast.positive.requires_grad
    assert contrast.negatives.requires_grad
    Objective(temperature=0.1, consistency_weight=1.0, consistency_temperature=0.07)(step.comparisons).total.backward()
    assert all(float(parameter.grad.norm()) > 0 for parameter in method.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_negatives_come_from_the_batch_so_accumulation_is_refused() -> None:
    assert simclr().in_batch
