"""ResNet backbones: torchvision's blocks and key names, with a width factor and stems for small images.

He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016. Like torchvision's (and MoCo's), the
bottleneck carries its stride in the 3x3 convolution, and the last batch norm of a block starts at 1, not 0.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

_Block: TypeAlias = type[BasicBlock] | type[Bottleneck]

_LAYOUTS: dict[str, tuple[_Block, tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
ARCHITECTURES: tuple[str, ...] = tuple(_LAYOUTS)

# Kernel size and stride of the first convolution, and whether max-pooling follows.
_STEMS: dict[str, tuple[int, int, bool]] = {
    "imagenet": (7, 2, True),
    "medium": (3, 2, False),
    "small": (3, 1, False),
}
STEMS: tuple[str, ...] = tuple(_STEMS)


class Backbone(Protocol):
    """Any module that maps images to feature vectors: a ResNet of this package, of timm, or your own."""

    num_features: int
    """F, the width of what ``__call__`` returns."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """(N, C, H, W) to (N, F)."""


class ResNet(nn.Module):
    """A ResNet without its classifier: (N, 3, H, W) to globally averaged features (N, ``num_features``).

    At width 1 with the "imagenet" stem the state dict is torchvision's, less ``fc.*``. Build it with :func:`resnet`.
    """

    def __init__(self, block: _Block, layout: tuple[int, int, int, int], *, width: float, stem: str) -> None:
        super().__init__()
        kernel, stride, pool = _STEMS[stem]
        base = int(64 * width)
        self.conv1 = nn.Conv2d(3, base, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        channels = base
        stages: list[nn.Sequential] = []
        for position, num_blocks in enumerate(layout):
            planes = int(64 * 2**position * width)
            stages.append(_stage(block, channels, planes, num_blocks, stride=1 if position == 0 else 2))
            channels = planes * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.num_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W)."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))  # (N, F, H / 32, W / 32) with "imagenet"
        return torch.flatten(self.avgpool(maps), 1)


def resnet(arch: str, *, width: float = 1.0, stem: str = "imagenet") -> ResNet:
    """A ResNet backbone with freshly drawn weights (Kaiming normal, fan out).

    Args:
        arch: "resnet18", "resnet34", "resnet50", or "resnet10", which has one block a stage.
        width: factor on every channel count, the stem's included. 0.5 is CMC's half-width network; 2 and 3
            are the R50w2x and R50w3x of the paper's Table 1.
        stem: "imagenet" (7x7 stride 2, then max-pooling: total stride 32), "medium" (3x3 stride 2, no
            max-pooling: total stride 16, for images of 48 to 96 pixels), or "small" (3x3 stride 1, no
            max-pooling: total stride 8, for 32 pixels, as usual on CIFAR).

    Raises:
        ValueError: an unknown architecture or stem, or a width that leaves no channel.
    """
    if arch not in _LAYOUTS:
        raise ValueError(f"unknown architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
    if stem not in _STEMS:
        raise ValueError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
    if int(64 * width) < 1:
        raise ValueError(f"width {width} leaves no channel in the first layer: it must be at least {1 / 64}")
    block, layout = _LAYOUTS[arch]
    return ResNet(block, layout, width=width, stem=stem)


def _stage(block: _Block, channels: int, planes: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first one strides and projects its shortcut where shapes change."""
    out_channels = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(conv1x1(channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    first = block(channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(num_blocks - 1)))
