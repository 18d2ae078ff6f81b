from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from co2ssl.encoders.batch_norm import (
    BatchNormKind,
    SplitBatchNorm1d,
    SplitBatchNorm2d,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    convert_batch_norm,
)
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head, mlp_head
from co2ssl.encoders.resnet import resnet


class Flat(nn.Module):
    """The smallest backbone: pixels as features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_embeddings_are_the_normalised_head_output() -> None:
    encoder = Encoder(Flat(12), linear_head(12, 5))
    images = torch.randn(6, 3, 2, 2)
    raw = encoder.head(encoder.features(images))
    expected = torch.stack([row / row.norm() for row in raw])
    torch.testing.assert_close(encoder(images), expected)
    assert torch.equal(encoder.features(images), images.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    encoder = Encoder(resnet("resnet18", width=0.125, stem="small"), linear_head(64, 8)).to(dtype)
    embeddings = encoder(torch.randn(4, 3, 16, 16, dtype=dtype))
    assert embeddings.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4, dtype=dtype), atol=tolerance, rtol=0)


def test_autocast_does_not_reach_the_normalisation() -> None:
    encoder = Encoder(resnet("resnet18", width=0.125, stem="small"), linear_head(64, 8))
    images = torch.randn(4, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder.head(encoder.features(images)).dtype == torch.bfloat16  # so the rest works in half the bits
        embeddings = encoder(images)
    assert embeddings.dtype == torch.float32
    # A vector normalised in bfloat16 would be off by about 1e-3.
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4), atol=1e-6, rtol=0)


def test_a_zero_row_stays_zero_and_spoils_no_other() -> None:
    encoder = Encoder(Flat(12), nn.Linear(12, 5, bias=False))
    images = torch.randn(3, 3, 2, 2)
    images[1] = 0
    embeddings = encoder(images)
    assert torch.equal(embeddings[1], torch.zeros(5))
    (gradient,) = torch.autograd.grad(embeddings.sum(), list(encoder.head.parameters()))
    assert bool(gradient.isfinite().all())


def test_width_of_the_embedding_is_read_from_the_head() -> None:
    assert Encoder(Flat(12), mlp_head(12, 7, 5)).embedding_dim == 5
    assert Encoder(Flat(12), mlp_head(12, 7, 5, batch_norm=True)).embedding_dim == 5
    assert Encoder(Flat(12), nn.Identity(), embedding_dim=12).embedding_dim == 12
    with pytest.raises(ValueError, match="pass embedding_dim"):
        Encoder(Flat(12), nn.Identity())


def test_a_backbone_that_is_no_module_is_refused() -> None:
    class Callable:
        num_features = 12

        def __call__(self, images: Tensor, /) -> Tensor:
            return images.flatten(1)

    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got Callable"):
        Encoder(Callable(), linear_head(12, 5))


@pytest.mark.parametrize("kind", ["split", "sync"])
def test_conversion_keeps_weights_keys_mode_and_comes_back(kind: BatchNormKind) -> None:
    encoder = Encoder(resnet("resnet18", width=0.0625), mlp_head(32, 16, 8, batch_norm=True))
    parameters = dict(encoder.named_parameters())
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    kinds = [type(module) for module in encoder.modules()]
    encoder.get_submodule("backbone.layer1").eval()
    modes = [module.training for module in encoder.modules()]
    assert convert_batch_norm(encoder, kind, groups=2 if kind == "split" else 1) is encoder
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 20 + 2
    expected = (SplitBatchNorm1d, SplitBatchNorm2d) if kind == "split" else (SyncBatchNorm1d, SyncBatchNorm2d)
    assert all(isinstance(norm, expected) for norm in norms)
    assert all(parameters[name] is parameter for name, parameter in encoder.named_parameters())
    assert list(encoder.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert [module.training for module in encoder.modules()] == modes
    convert_batch_norm(encoder, "plain")
    assert [type(module) for module in encoder.modules()] == kinds
