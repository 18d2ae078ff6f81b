from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.models.feature_extraction import create_feature_extractor

from co2ssl.encoders.resnet import resnet
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import extract
from co2ssl.evaluate.layers import LAYERS, at_layer
from tests.evaluate.fakes import Images

NODES = {"res1": "maxpool", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


@pytest.mark.parametrize(
    ("layer", "width"), [("res1", 9216), ("res2", 9216), ("res3", 8192), ("res4", 9216), ("res5", 8192)]
)
def test_maps_of_a_resnet50_pooled_as_published(layer: str, width: int) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    images = torch.randn(1, 3, 224, 224)
    # torchvision's own way to the maps.
    maps = create_feature_extractor(network, {NODES[layer]: "maps"})(images)["maps"]
    side = {"res1": 12, "res2": 6, "res3": 4, "res4": 3, "res5": 2}[layer]
    with torch.no_grad():
        found = at_layer(network, layer)(images)
    assert found.shape == (1, width)
    torch.testing.assert_close(found, adaptive_avg_pool2d(maps, side).flatten(1))


def test_maps_that_are_small_already_are_taken_as_they_are() -> None:
    backbone = resnet("resnet18", width=0.125, stem="small").eval()
    with torch.no_grad():
        assert at_layer(backbone, "res1")(torch.zeros(2, 3, 32, 32)).shape == (2, 8 * 12 * 12)
        assert at_layer(backbone, "res5")(torch.zeros(2, 3, 8, 8)).shape == (2, 64)
        images = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(at_layer(backbone, "res5")(images), backbone(images))


def test_pooled_is_the_network_itself_whatever_it_is() -> None:
    network = nn.Flatten()
    assert at_layer(network, "pooled") is network
    assert LAYERS[-1] == "pooled"


def test_a_network_without_such_layers() -> None:
    with pytest.raises(UsageError, match=r"Sequential has no layer res4.*--layer pooled"):
        at_layer(nn.Sequential(nn.Flatten()), "res4")
    with pytest.raises(UsageError, match="choose one of res1"):
        at_layer(resnet("resnet18", width=0.125), "res6")


def test_the_backbone_is_left_as_it_was() -> None:
    backbone = resnet("resnet18", width=0.125, stem="small")
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features = extract(at_layer(backbone, "res3"), Images([0, 1] * 4, ("a", "b")), image_size=8)
    assert features.features.shape == (8, 16 * 4 * 4)
    assert all(part.training for part in backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
