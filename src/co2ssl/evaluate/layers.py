"""Features from inside a network: the maps after each of a ResNet's stages, pooled to a vector."""

from __future__ import annotations

from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from co2ssl.errors import UsageError

POOLED = "pooled"
"""The network's own output: of a ResNet, the global average of its last maps."""

# Side that the maps of each stage are pooled to, so that a ResNet-50 of 224 px gives 8,192 to 9,216 numbers everywhere
# (64 x 12 x 12, 256 x 6 x 6, 512 x 4 x 4, 1024 x 3 x 3, 2048 x 2 x 2), and res1 is what follows the stem's max-pooling:
# seen in vissl [09270ed2] (eval_resnet_8gpu_transfer_in1k_linear.yaml; trunks/resnext.py), which evaluates Goyal et al.
# (2019) and PIRL. Its windows overlap; ours are adaptive, and so fit every image size.
_SIDES = {"res1": 12, "res2": 6, "res3": 4, "res4": 3, "res5": 2}
LAYERS = (*_SIDES, POOLED)

_PARTS = {"res1": "maxpool", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
_ORDER = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def at_layer(backbone: nn.Module, layer: str) -> nn.Module:
    """The network (N, 3, H, W) to (N, F) that ends at a layer of ``backbone``; its weights are the backbone's own.

    Args:
        backbone: any network for "pooled"; else one with a ResNet's parts by torchvision's names.
        layer: one of :data:`LAYERS`.

    Raises:
        UsageError: an unknown layer, or a network without such parts.
    """
    if layer not in LAYERS:
        raise UsageError(f"there is no layer {layer!r}; choose one of {', '.join(LAYERS)}.")
    if layer == POOLED:
        return backbone
    missing = [name for name in _ORDER if not isinstance(getattr(backbone, name, None), nn.Module)]
    if missing:
        raise UsageError(
            f"a {type(backbone).__name__} has no layer {layer}: only ResNets have (it lacks {missing[0]!r}). "
            f"Use --layer {POOLED}."
        )
    return PooledMaps(backbone, layer)


class PooledMaps(nn.Module):
    """The first stages of a ResNet, and its maps averaged over a few windows: (N, 3, H, W) to (N, channels * side**2).

    Maps that are smaller than that already are taken as they are.
    """

    def __init__(self, backbone: nn.Module, layer: str) -> None:
        super().__init__()
        last = _PARTS[layer]
        names = (*takewhile(lambda name: name != last, _ORDER), last)
        self.stages = nn.Sequential(*(getattr(backbone, name) for name in names))
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W)."""
        maps = self.stages(images)
        height, width = maps.shape[-2:]
        side = _SIDES[self.layer]
        return torch.flatten(adaptive_avg_pool2d(maps, (min(side, height), min(side, width))), 1)

    def extra_repr(self) -> str:
        """The layer."""
        return f"layer={self.layer}"
