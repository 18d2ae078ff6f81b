from __future__ import annotations

import pytest
import torch
from torch import nn

from co2ssl.evaluate.frozen import EncoderChangedError, evaluating, named_tensors, unchanged
from tests.evaluate.fakes import Net


def test_unchanged_lets_reading_pass_and_nan_equals_itself() -> None:
    net = Net()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    with unchanged(net):
        net.eval()
        net(torch.zeros(1, 3, 8, 8))


def flip_one_bit(net: nn.Module, name: str) -> None:
    tensor = dict([*net.named_parameters(), *net.named_buffers()])[name]
    tensor.detach().reshape(-1).view(torch.uint8)[0] ^= 1


@pytest.mark.parametrize("name", ["head.weight", "backbone.1.running_mean", "backbone.1.num_batches_tracked"])
def test_unchanged_sees_one_bit(name: str) -> None:
    net = Net()
    guard = unchanged(net)
    guard.__enter__()
    flip_one_bit(net, name)
    with pytest.raises(EncoderChangedError, match=name):
        guard.__exit__(None, None, None)


def test_unchanged_sees_the_sign_of_zero_and_a_new_buffer() -> None:
    net = Net()
    net.head.bias.data[0] = 0.0
    guard = unchanged(net)
    guard.__enter__()
    net.register_buffer("extra", torch.zeros(1))
    net.head.bias.data[0] = -0.0
    with pytest.raises(EncoderChangedError, match=r"extra, head\.bias"):
        guard.__exit__(None, None, None)


def change_and_fail(net: Net) -> None:
    with unchanged(net):
        net.head.bias.data.fill_(1)
        raise ZeroDivisionError


def test_an_error_inside_unchanged_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        change_and_fail(Net())


def test_the_names_include_buffers_that_no_state_dict_holds() -> None:
    net = Net()
    net.register_buffer("quiet", torch.zeros(1), persistent=False)
    assert {"quiet", "head.weight", "backbone.1.running_var"} <= {name for name, _ in named_tensors(net)}


def test_each_part_gets_its_own_mode_back() -> None:
    net = Net()
    net.train()
    net.backbone[1].eval()
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [net.training, net.backbone[0].training, net.backbone[1].training] == [True, True, False]
