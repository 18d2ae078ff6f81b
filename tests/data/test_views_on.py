"""Views that the device finishes: the workers' draws, their crops to the bit, and their pixels up to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from co2ssl.data import hashing
from co2ssl.data import loader as loader_module
from co2ssl.data.batch import Batch
from co2ssl.data.decoding import BadImage
from co2ssl.data.device_views import crops_alone, finished_views
from co2ssl.data.loader import Loader, ViewsOn
from co2ssl.data.operations import Numbers, RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.pixels import Image
from co2ssl.data.recipe import ViewRecipe
from co2ssl.data.sources import ArraySource
from co2ssl.data.views import VIEW_RECIPES, draw_views, view_recipe
from co2ssl.errors import UsageError
from tests.data.photographs import REGIONS, difference, photograph

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FINISHED = ["moco-v1", "moco-v2", "simclr", "moco-v1-small", "moco-v2-small", "simclr-small", "insdisc", "cmc"]
SPOILED = 4

# What DataLoader says of three workers on two cores: advice, and these tests are about bytes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Photographs(ArraySource):
    """Thirteen photographs of many sizes; one of them cannot be read."""

    def __init__(self) -> None:
        whole = [photograph(name) for name in REGIONS]
        self.kept = [*whole, *(image[10:70, 5:] for image in whole[1:])]
        super().__init__("photographs", np.empty((len(self.kept), 0, 0, 3), np.uint8), None, None)

    def load(self, index: int) -> Image:
        if index == SPOILED:
            raise BadImage(self.describe(index), "spoiled")
        return np.ascontiguousarray(self.kept[index])


def recipe(name: str) -> ViewRecipe:
    return view_recipe(name, image_size=48)


def batches(name: str, views_on: ViewsOn, *, workers: int = 0, epoch: int = 2, first_step: int = 0) -> Iterator[Batch]:
    loader = Loader(
        Photographs(), recipe(name), batch_size=4, seed=3, workers=workers, max_bad_share=0.2, views_on=views_on
    )
    try:
        yield from loader.epoch(epoch, first_step=first_step)
    finally:
        loader.close()


def finished(batch: Batch, device: str = "cpu") -> tuple[Tensor, ...]:
    """The uint8 views, on the CPU."""
    assert batch.finish is not None
    return tuple(view.cpu() for view in batch.finish(tuple(view.to(device) for view in batch.views)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FINISHED)
def test_the_device_makes_of_crops_what_workers_make(name: str, device: str) -> None:
    found: list[float] = []
    order = hashing.permutation(3, epoch=2, length=len(Photographs()))
    replaced = 0
    for step, (whole, crops) in enumerate(zip(batches(name, "worker"), batches(name, "device"), strict=True)):
        assert whole.finish is None
        assert torch.equal(whole.index, crops.index)
        wanted = order[4 * step : 4 * step + 4].tolist()
        replaced += sum(index != other for index, other in zip(whole.index.tolist(), wanted, strict=True))
        views = finished(crops, device)
        assert len(views) == len(whole.views) == recipe(name).num_views
        for ours, theirs in zip(views, whole.views, strict=True):
            assert ours.dtype == torch.uint8
            assert ours.is_contiguous(memory_format=torch.channels_last)
            found += [
                difference(one.permute(1, 2, 0).numpy(), other.permute(1, 2, 0).numpy())
                for one, other in zip(ours, theirs, strict=True)
            ]
    assert replaced == 1
    assert np.mean(found) < 0.5
    assert np.max(found) < 2.0


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_and_draws_are_those_of_each_image(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the image that took the place of one that cannot be read."""
    sent: list[Sequence[Sequence[Numbers]]] = []

    def kept(crops: Any, recipe: ViewRecipe, drawn: Sequence[Sequence[Numbers]]) -> tuple[Tensor, ...]:
        sent.append(drawn)
        return finished_views(crops, recipe, drawn)

    monkeypatch.setattr(loader_module, "finished_views", kept)
    whole, source = recipe("moco-v2"), Photographs()
    for batch in batches("moco-v2", "device", workers=workers):
        views = finished(batch)
        assert not torch.equal(views[0], batch.views[0])
        for row, index in enumerate(batch.index.tolist()):
            for view, steps in enumerate(draw_views(whole, seed=3, epoch=2, index=index)):
                crop = whole.operations[0].apply(source.load(index), steps[0])
                np.testing.assert_array_equal(batch.views[view][row].permute(1, 2, 0).numpy(), crop)
                assert [rows[row].tolist() for rows in sent[-1][view]] == steps[1:]
    assert len(sent) == 3


@pytest.mark.parametrize(("workers", "first_step"), [(0, 1), (1, 0), (3, 0), (2, 2)])
def test_same_bytes_for_any_number_of_workers_and_after_a_resume(workers: int, first_step: int) -> None:
    straight = [finished(batch) for batch in batches("simclr", "device")]
    again = [finished(batch) for batch in batches("simclr", "device", workers=workers, first_step=first_step)]
    assert len(again) == len(straight) - first_step > 0
    for views, expected in zip(again, straight[first_step:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(views, expected, strict=True))


def test_crops_are_left_as_they_were() -> None:
    (batch, *_) = batches("moco-v2", "device")
    before = [view.clone() for view in batch.views]
    first, second = finished(batch), finished(batch)
    assert all(torch.equal(one, other) for one, other in zip(batch.views, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("jigsaw", "ResizeShortSide"),
        ("relative-position", "ResizeSquare"),
        ("cpc-v2", "GridPatch"),
        ("pirl", "RandomPhotometric"),
    ],
)
def test_what_the_device_does_not_have_is_named(name: str, operation: str) -> None:
    with pytest.raises(UsageError, match=rf"{operation} of the view recipe {name} .*--views-on worker"):
        Loader(Photographs(), VIEW_RECIPES[name], batch_size=4, seed=0, workers=0, views_on="device")


def test_recipes_that_no_crop_makes_a_batch_of() -> None:
    flip, crop = RandomHorizontalFlip(), RandomResizedCrop(size=48, min_area=0.2)
    late = replace(recipe("moco-v2"), operations=(flip, crop))
    with pytest.raises(UsageError, match="begins with RandomHorizontalFlip, not with a crop"):
        crops_alone(late)
    shared = replace(recipe("moco-v2"), shared=(crop,), operations=(flip,))
    with pytest.raises(UsageError, match="moco-v2 share operations"):
        crops_alone(shared)


def test_draws_of_other_images_are_refused() -> None:
    (batch, *_) = batches("moco-v2", "device")
    whole = recipe("moco-v2")
    drawn = [whole.draw(seed=0, epoch=0, index=np.arange(3), view=view)[1:] for view in range(2)]
    with pytest.raises(ValueError, match="not those of 4 images"):
        finished_views(batch.views, whole, drawn)
