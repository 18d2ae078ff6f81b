from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head
from co2ssl.encoders.momentum import momentum_copy, update_momentum
from co2ssl.encoders.resnet import resnet


def _pair() -> tuple[Encoder, Encoder]:
    """An encoder and a copy, both moved away from each other in weights and in batch-norm statistics."""
    torch.manual_seed(0)
    encoder = Encoder(resnet("resnet18", width=0.0625, stem="small"), linear_head(32, 8)).double()
    copied = momentum_copy(encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
        encoder(torch.randn(4, 3, 8, 8, dtype=torch.float64))
        copied(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    return encoder, copied


def test_copy_is_equal_separate_and_without_gradient() -> None:
    encoder = Encoder(resnet("resnet18", width=0.0625, stem="small"), linear_head(32, 8))
    copied = momentum_copy(encoder)
    assert copied.training
    for (name, ours), theirs in zip(copied.state_dict().items(), encoder.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.data_ptr() != theirs.data_ptr(), name
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("ema_keep", [0.0, 0.3, 0.99, 1.0])
def test_update_is_the_weighted_mean_and_leaves_buffers(ema_keep: float) -> None:
    encoder, copied = _pair()
    before, source = copy.deepcopy(copied.state_dict()), copy.deepcopy(encoder.state_dict())
    addresses = [parameter.data_ptr() for parameter in copied.parameters()]
    update_momentum(copied, encoder, ema_keep)
    parameters = dict(copied.named_parameters())
    for name, value in copied.state_dict().items():
        if name in parameters:
            expected = ema_keep * before[name] + (1 - ema_keep) * source[name]
            torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-15)
        else:
            assert torch.equal(value, before[name]), name
    assert [parameter.data_ptr() for parameter in copied.parameters()] == addresses
    assert all(torch.equal(value, source[name]) for name, value in encoder.state_dict().items())


def test_keep_is_the_weight_of_the_old_value() -> None:
    encoder, copied = _pair()
    before = copy.deepcopy(copied.state_dict())
    update_momentum(copied, encoder, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    update_momentum(copied, encoder, 0.0)
    for ours, theirs in zip(copied.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("ema_keep", [-0.1, 1.1])
def test_a_weight_outside_the_unit_interval_is_refused(ema_keep: float) -> None:
    with pytest.raises(ValueError, match="weight of the old value"):
        update_momentum(nn.Linear(2, 2), nn.Linear(2, 2), ema_keep)


def test_modules_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum_copy"):
        update_momentum(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
