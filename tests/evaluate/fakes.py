"""A data source in memory, and a small network, for the tests of evaluation and of the report."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from co2ssl.data.decoding import BadImage


class Images:
    """Images of one colour per class with noise; the Source protocol over arrays."""

    def __init__(
        self,
        labels: list[int] | None,
        classes: tuple[str, ...] | None,
        *,
        num_images: int = 0,
        size: int = 8,
        seed: int = 0,
        noise: float = 40.0,
        name: str = "images",
        unreadable: tuple[int, ...] = (),
    ) -> None:
        self.unreadable = unreadable
        random = np.random.default_rng(seed)
        self.name = name
        self.classes = classes
        self.labels: NDArray[np.int64] | None = None if labels is None else np.array(labels, dtype=np.int64)
        own = np.array(labels if labels is not None else random.integers(0, 3, num_images), dtype=np.int64)
        colours = np.random.default_rng(99).uniform(40, 215, (64, 1, 1, 3))
        pixels = colours[own] + noise * random.standard_normal((len(own), size, size, 3))
        self.pixels: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int) -> NDArray[np.uint8]:
        if index in self.unreadable:
            raise BadImage(self.describe(index), "made so")
        image: NDArray[np.uint8] = self.pixels[index]
        return image

    def describe(self, index: int) -> str:
        return f"{self.name}/{index}.png"

    def fingerprint(self) -> str:
        return self.name


class Net(nn.Module):
    """An encoder with batch norm, dropout and a buffer: everything that evaluation could disturb."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.backbone(images)), dim=1)
