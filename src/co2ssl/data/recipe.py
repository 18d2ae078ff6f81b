"""What a view recipe is, and how it makes the views of an image.

What is drawn for a view is a pure function of (seed, epoch, image index, view): see :mod:`co2ssl.data.hashing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from co2ssl.data import hashing
from co2ssl.data.operations import Numbers, RandomOperation
from co2ssl.data.patches import GridPatch
from co2ssl.data.pixels import Image

BatchSplit: TypeAlias = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Views (N, 3, H, W) uint8, on whatever device they are, to the views that a method gets."""


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """An ordered list of random operations that makes views of an image.

    Most recipes have only ``operations``, drawn anew for each view. Views that are cut from one picture (patches) have
    ``shared`` operations before them, drawn once for all; views of a second kind follow in ``more``.

    Attributes:
        name: as in :data:`co2ssl.data.views.VIEW_RECIPES`.
        image_size: side of a view in pixels; of the first kind, where there are two.
        operations: applied first to last, drawn for each view by itself.
        num_views: views per image, of both kinds.
        shared: applied before ``operations``, with the same drawn parameters in all views.
        more: how the views of the second kind are made, which come after those of the first.
        split: done to a whole batch by :meth:`Batch.to`, so that uint8 crosses to the device: the uint8 views of the
            workers in, the method's views out. Floating-point views it gives are not normalised again.
    """

    name: str
    image_size: int
    operations: tuple[RandomOperation, ...]
    num_views: int = 2
    shared: tuple[RandomOperation, ...] = ()
    more: ViewRecipe | None = None
    split: BatchSplit | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels, as the workers make it."""
        rest = self.more.sizes if self.more else ()
        return (self.image_size,) * (self.num_views - len(rest)) + rest

    def kind(self, view: int) -> tuple[ViewRecipe, int]:
        """The recipe that makes this view (this one or ``more``), and the number of the first view it makes."""
        if self.more and view >= (first := self.num_views - self.more.num_views):
            return self.more, first
        return self, 0

    def steps(self, view: int) -> tuple[RandomOperation, ...]:
        """Everything that is applied to make this view, shared operations first."""
        kind, first = self.kind(view)
        own = (replace(step, cell=view - first) if isinstance(step, GridPatch) else step for step in kind.operations)
        return (*kind.shared, *own)

    def draw(self, *, seed: int, epoch: int, index: NDArray[np.int64], view: int) -> tuple[Numbers, ...]:
        """Drawn parameters of one view of the images ``index`` (N,): for each of :meth:`steps` (N, len(columns))."""
        kind, first = self.kind(view)
        steps = self.steps(view)
        counts = [step.draws for step in steps]
        uniform = hashing.uniform(seed, epoch=epoch, index=index, view=view, draws=sum(counts))
        if kind.shared and view != first:
            shared = sum(counts[: len(kind.shared)])
            uniform[:, :shared] = hashing.uniform(seed, epoch=epoch, index=index, view=first, draws=shared)
        parts = np.split(uniform, np.cumsum(counts)[:-1], axis=1)
        return tuple(step.parameters(part) for step, part in zip(steps, parts, strict=True))

    def apply(self, image: Image, drawn: Sequence[Sequence[float]], view: int = 0) -> Image:
        """One view (size, size, 3) uint8 of an image (H, W, 3) uint8, with one row of each drawn array.

        Args:
            image: RGB; not changed.
            drawn: one row of each array that :meth:`draw` gave for this view.
            view: which view. Only a recipe with ``more`` asks; elsewhere what was drawn says it all.
        """
        kind, _ = self.kind(view)
        return _through((*kind.shared, *kind.operations), image, drawn)

    def apply_all(self, image: Image, drawn: Sequence[Sequence[Sequence[float]]]) -> Iterator[Image]:
        """All views of an image, as :meth:`apply` makes each; what they share is done once.

        Args:
            image: RGB (H, W, 3) uint8; not changed.
            drawn: for each view, one row of each array that :meth:`draw` gave.
        """
        count = self.num_views - (self.more.num_views if self.more else 0)
        kept = len(self.shared)
        picture = _through(self.shared, image, drawn[0][:kept])
        for rows in drawn[:count]:
            yield _through(self.operations, picture, rows[kept:])
        if self.more:
            yield from self.more.apply_all(image, drawn[count:])

    def on_device(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The views a method gets (``split``) of those the workers made, each (N, 3, size, size) uint8."""
        return self.split(views) if self.split else views


def make_views(image: Image, recipe: ViewRecipe, *, seed: int, epoch: int, index: int) -> tuple[Image, ...]:
    """All views of one image (H, W, 3) uint8, each (size, size, 3) uint8.

    Args:
        image: RGB; not changed.
        recipe: what to apply.
        seed: of the run.
        epoch: epochs finished before.
        index: the image's place in the data set.
    """
    return tuple(recipe.apply_all(image, draw_views(recipe, seed=seed, epoch=epoch, index=index)))


def draw_views(recipe: ViewRecipe, *, seed: int, epoch: int, index: int) -> list[list[list[float]]]:
    """What is drawn for one image: for each view, one row of parameters for each of its steps."""
    where = np.array([index])
    return [
        [rows[0].tolist() for rows in recipe.draw(seed=seed, epoch=epoch, index=where, view=view)]
        for view in range(recipe.num_views)
    ]


def _through(operations: Sequence[RandomOperation], image: Image, drawn: Sequence[Sequence[float]]) -> Image:
    for operation, parameters in zip(operations, drawn, strict=True):
        image = operation.apply(image, parameters)
    return image
