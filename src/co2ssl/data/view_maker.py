"""What a worker does for a batch of training: images loaded, their views made and laid out as networks want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data.decoding import BadImage
from co2ssl.data.operations import Numbers
from co2ssl.data.pixels import Image
from co2ssl.data.sources import Source
from co2ssl.data.views import ViewRecipe, draw_views


class Task(NamedTuple):
    """Which images to make a batch of."""

    epoch: int
    image_index: NDArray[np.int64]


class Made(NamedTuple):
    """A batch as it comes from a worker.

    Attributes:
        images: for each view (N, 3, size, size) uint8.
        image_index: (N,) int64; an image that could not be read is replaced by another.
        bad: images that could not be read, and why.
        rest: for each view, what was drawn for the operations that are left to the device, arrays of N rows.
    """

    images: tuple[Tensor, ...]
    image_index: Tensor
    bad: list[tuple[int, str]]
    rest: Sequence[Sequence[Numbers]] = ()


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of one batch; runs in a worker.

    Attributes:
        source: the images.
        recipe: what is drawn.
        here: the recipe, or it with its first operations only, which are then all that is done here.
        seed: of the views.
        bad_limit: more unreadable images than these end the batch.
    """

    source: Source
    recipe: ViewRecipe
    here: ViewRecipe
    seed: int
    bad_limit: float

    def __call__(self, task: Task) -> Made:
        """The batch; without images where too many cannot be read."""
        size = self.recipe.image_size
        views = [np.empty((len(task.image_index), size, size, 3), np.uint8) for _ in range(self.recipe.num_views)]
        # All parameters of the batch in one call a view, and as Python numbers: per image, numpy's would take longer to
        # draw and to read than the pixels take.
        arrays = [
            self.recipe.draw(seed=self.seed, epoch=task.epoch, index=task.image_index, view=view)
            for view in range(self.recipe.num_views)
        ]
        drawn = [[parameters.tolist() for parameters in view] for view in arrays]
        left = len(self.recipe.operations) - len(self.here.operations)
        index = task.image_index.copy()
        bad: list[tuple[int, str]] = []
        for row, wanted in enumerate(task.image_index.tolist()):
            found, image = self._load(wanted, bad)
            if image is None:
                return Made((), torch.empty(0, dtype=torch.int64), bad)
            if found != wanted:
                index[row] = found
                own = draw_views(self.recipe, seed=self.seed, epoch=task.epoch, index=found)
                for view, parameters in enumerate(own):
                    for step, values in enumerate(parameters):
                        arrays[view][step][row] = drawn[view][step][row] = values
            for pixels, rows in zip(views, drawn, strict=True):
                pixels[row] = self.here.apply(image, [step[row] for step in rows[: len(rows) - left]])
        rest = [view[len(view) - left :] for view in arrays]
        return Made(tuple(channels_first(view) for view in views), torch.from_numpy(index), bad, rest)

    def _load(self, wanted: int, bad: list[tuple[int, str]]) -> tuple[int, Image | None]:
        """Image ``wanted``, or the next that can be read; None when this batch alone met more bad ones than allowed."""
        for place in range(wanted, wanted + len(self.source)):
            index = place % len(self.source)
            try:
                return index, self.source.load(index)
            except BadImage as error:
                bad.append((index, error.reason))
                if len({number for number, _ in bad}) > self.bad_limit:
                    break
        return wanted, None


def channels_first(images: Image) -> Tensor:
    """(N, H, W, 3) as a tensor (N, 3, H, W) on the same memory: channels last, what networks run fastest on."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
