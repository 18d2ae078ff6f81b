"""What the loader hands to a method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Channel statistics of ImageNet on the 0 to 255 scale, as every method of the paper normalises
# (mean 0.485, 0.456, 0.406; standard deviation 0.229, 0.224, 0.225 on the 0 to 1 scale).
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One (micro-)batch of this process: several views of the same N images.

    Attributes:
        views: one tensor per view, each (N, C, H, W). uint8 as the loader makes them, floating point and
            normalised as a method gets them (:meth:`to`).
        index: (N,) int64, the place of each image in the data set.
        label: (N,) int64, or None where the data has no labels. Methods never read it.
        step: batches made before this one, over the whole run.
        epoch: epochs finished before this batch.
    """

    views: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None
    step: int
    epoch: int

    def to(self, device: torch.device, *, dtype: torch.dtype = torch.float32) -> Batch:
        """The batch on ``device`` with normalised floating-point views in channels-last layout.

        uint8 is what crosses to the device: a quarter of the bytes of float32.
        """
        moved = tuple(normalise(view.to(device, non_blocking=True), dtype=dtype) for view in self.views)
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(self, views=moved, index=self.index.to(device, non_blocking=True), label=label)


def normalise(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images (N, 3, H, W) to floating point with ImageNet's channel statistics, channels last.

    Images that are floating point already are only cast.
    """
    if images.dtype != torch.uint8:
        return images.to(dtype)
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(IMAGENET_STD, dtype=dtype, device=images.device).view(1, 3, 1, 1).reciprocal()
    return images.to(dtype, memory_format=torch.channels_last).sub_(mean).mul_(scale)
