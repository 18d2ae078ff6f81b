"""What the loader hands to a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Channel statistics of ImageNet on the 0 to 255 scale, as every method of the paper normalises
# (mean 0.485, 0.456, 0.406; standard deviation 0.229, 0.224, 0.225 on the 0 to 1 scale).
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# Values that a CPU normalises at once: 1 MB of float32.
_TILE = 2**18


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
        finish: what is still to be done to uint8 views, on the device: their crops in, the views out. None where
            workers made the whole of them.
        split: done to the whole of them after that, on the device: the uint8 views in, those that a method gets out
            (:attr:`ViewRecipe.split`). None where these are the same.
    """

    views: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None
    step: int
    epoch: int
    finish: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None
    split: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None

    def to(self, device: torch.device, *, dtype: torch.dtype = torch.float32) -> Batch:
        """The batch on ``device`` with the views that a method gets, in floating point.

        uint8 is what crosses to the device: a quarter of the bytes of float32. There it is normalised, into
        channels-last layout; what a split made floating point is only cast.
        """
        views = tuple(view.to(device, non_blocking=True) for view in self.views)
        if self.finish is not None:
            views = self.finish(views)
        if self.split is not None:
            views = self.split(views)
        return replace(
            self,
            views=tuple(normalise(view, dtype=dtype) for view in views),
            index=self.index.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
            finish=None,
            split=None,
        )


def normalise(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images (N, 3, H, W) to floating point with ImageNet's channel statistics, channels last.

    Images that are floating point already are only cast.
    """
    if images.dtype != torch.uint8:
        return images.to(dtype)
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(IMAGENET_STD, dtype=dtype, device=images.device).view(1, 3, 1, 1).reciprocal()
    ready = torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)
    # On a CPU in tiles that stay in a core's cache from one operation to the next; elsewhere each costs a launch.
    tile = _TILE // max(1, images[:1].numel()) if images.device.type == "cpu" else len(images)
    for some, given in zip(ready.split(max(1, tile)), images.split(max(1, tile)), strict=True):
        some.copy_(given).sub_(mean).mul_(scale)
    return ready
