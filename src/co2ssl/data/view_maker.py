"""What a worker does for a batch of training: images loaded, their views made and laid out as networks want them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data import hashing
from co2ssl.data.decoding import BadImage
from co2ssl.data.operations import Numbers
from co2ssl.data.pixels import Image
from co2ssl.data.sources import Source
from co2ssl.data.views import ViewRecipe, draw_views

# Images drawn to take the place of one that cannot be read, before they are gone through in order: enough where one in
# twenty is bad, and where it is one in two.
_DRAWN_REPLACEMENTS = 16


class Task(NamedTuple):
    """Which images to make a batch of."""

    epoch: int
    image_index: NDArray[np.int64]


class Made(NamedTuple):
    """A batch as it comes from a worker.

    Attributes:
        images: for each view (N, 3, size, size) uint8, of its own size; none where too many images cannot be read.
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
        views = [np.empty((len(task.image_index), size, size, 3), np.uint8) for size in self.recipe.sizes]
        # All parameters of the batch in one call a view, and as Python numbers: per image, numpy's would take longer to
        # draw and to read than the pixels take.
        arrays = [
            self.recipe.draw(seed=self.seed, epoch=task.epoch, index=task.image_index, view=view)
            for view in range(self.recipe.num_views)
        ]
        drawn = [[parameters.tolist() for parameters in view] for view in arrays]
        left = len(self.recipe.operations) - len(self.here.operations)
        index = task.image_index.copy()
        bad: dict[int, str] = {}
        for row, wanted in enumerate(task.image_index.tolist()):
            found, image = self._load(wanted, task.epoch, bad)
            if image is None:
                return Made((), torch.empty(0, dtype=torch.int64), list(bad.items()))
            if found != wanted:
                index[row] = found
                own = draw_views(self.recipe, seed=self.seed, epoch=task.epoch, index=found)
                for view, parameters in enumerate(own):
                    for step, values in enumerate(parameters):
                        arrays[view][step][row] = drawn[view][step][row] = values
            of_image = [[step[row] for step in view[: len(view) - left]] for view in drawn]
            for pixels, made in zip(views, self.here.apply_all(image, of_image), strict=True):
                pixels[row] = made
        rest = [view[len(view) - left :] for view in arrays]
        images = tuple(channels_first(view) for view in views)
        return Made(images, torch.from_numpy(index), list(bad.items()), rest)

    def _load(self, wanted: int, epoch: int, bad: dict[int, str]) -> tuple[int, Image | None]:
        """Image ``wanted``, or another; None where none can be read, or this batch met more bad ones than allowed.

        Args:
            wanted: its place.
            epoch: epochs finished before.
            bad: places of the images that this batch could not read, and why; more are added.
        """
        for place in self._candidates(wanted, epoch):
            # Read again, one broken folder would be read for each of its images.
            if place in bad:
                continue
            try:
                return place, self.source.load(place)
            except BadImage as error:
                bad[place] = error.reason
                if len(bad) > self.bad_limit:
                    break
        return wanted, None

    def _candidates(self, wanted: int, epoch: int) -> Iterator[int]:
        """Image ``wanted``, some at random from all of them, and at last every one in order.

        At random, because bad images lie together: neighbours would all be replaced by the first good one after them,
        with the same draws, and a batch would hold the same rows several times.
        """
        yield wanted
        uniform = hashing.uniform(
            self.seed,
            epoch=epoch,
            index=np.array([wanted]),
            view=0,
            draws=_DRAWN_REPLACEMENTS,
            stream=hashing.REPLACEMENT_STREAM,
        )
        drawn = (uniform[0] * len(self.source)).astype(np.int64).tolist()
        yield from drawn
        last = drawn[-1]
        yield from range(last + 1, len(self.source))
        yield from range(last)


def channels_first(images: Image) -> Tensor:
    """(N, H, W, 3) as a tensor (N, 3, H, W) on the same memory: channels last, what networks run fastest on."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
