from __future__ import annotations

import pytest
import torch
from torch import nn

from co2ssl.encoders.heads import linear_head, mlp_head


def _kinds(head: nn.Sequential) -> list[str]:
    return [type(module).__name__ for module in head]


def test_linear_head_is_one_affine_map() -> None:
    head = linear_head(7, 3)
    features = torch.randn(5, 7)
    torch.testing.assert_close(head(features), features @ head.weight.T + head.bias)


def test_moco_v2_head() -> None:
    head = mlp_head(6, 4, 3)
    assert _kinds(head) == ["Linear", "ReLU", "Linear"]
    first, last = head[0], head[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    features = torch.randn(5, 6)
    hidden = (features @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(head(features), hidden @ last.weight.T + last.bias)


def test_batch_norm_follows_every_layer_and_replaces_its_bias() -> None:
    head = mlp_head(6, 4, 3, layers=3, batch_norm=True)
    assert _kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert all(module.bias is None for module in head if isinstance(module, nn.Linear))
    torch.testing.assert_close(head(torch.randn(64, 6)).mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)


def test_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="linear_head"):
        mlp_head(6, 4, 3, layers=1)
