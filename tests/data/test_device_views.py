"""Views of whole batches on tensors: Pillow's pixels and the workers' draws, on whatever devices there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from co2ssl.data import operations
from co2ssl.data.device_views import batched_views, crop_boxes
from co2ssl.data.operations import JITTER_ORDERS, Numbers, RandomOperation
from co2ssl.data.pixels import Image
from co2ssl.data.recipe import ViewRecipe
from co2ssl.data.views import VIEW_RECIPES, view_recipe
from co2ssl.errors import UsageError
from tests.data.photographs import REGIONS, assert_parity, difference, pil, reference_step, view_sized

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIDE = 64
IMAGES = np.stack([view_sized(region, SIDE) for region in REGIONS])

Rows = list[list[float]]


def on_device(operation: RandomOperation, rows: Rows, device: str, images: Image = IMAGES) -> Image:
    """One operation alone, with a row of drawn parameters for each image, (N, size, size, 3)."""
    recipe = ViewRecipe(name="one", image_size=SIDE, operations=(operation,), num_views=1)
    (view,) = batched_views(torch.from_numpy(images).to(device), recipe, [[np.array(rows)]])
    assert view.dtype == torch.uint8
    assert view.is_contiguous(memory_format=torch.channels_last)
    return view.permute(0, 2, 3, 1).cpu().numpy()


def assert_each_is_pillows(operation: RandomOperation, rows: Rows, device: str, *, within: float | None = None) -> None:
    ours = on_device(operation, rows, device)
    for image, view, row in zip(IMAGES, ours, rows, strict=True):
        reference = reference_step(operation, row)(pil(image))
        assert_parity(view, reference, image)
        if within is not None:
            assert difference(view, reference) <= within


def spread(rows: Rows) -> list[Rows]:
    """Batches in which neighbours have different parameters: every row meets every image."""
    return [[rows[(image + turn) % len(rows)] for image in range(len(IMAGES))] for turn in range(len(rows))]


FACTORS = [0.0, 0.2, 0.95, 1.0, 1.05, 1.8]
SHIFTS = [-0.5, -0.4, -0.1, -0.02, 0.0, 0.01, 0.1, 0.3, 0.5]
JITTER = operations.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_factor_of_jitter(place: int, device: str) -> None:
    rows = [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0] for _ in FACTORS]
    for row, factor in zip(rows, FACTORS, strict=True):
        row[place] = factor
    for batch in spread(rows):
        assert_each_is_pillows(JITTER, batch, device, within=0.25)


@pytest.mark.parametrize("device", DEVICES)
def test_hue(device: str) -> None:
    rows = [[1.0, 1.0, 1.0, 1.0, shift, 0.0] for shift in SHIFTS]
    for batch in spread(rows):
        assert_each_is_pillows(JITTER, batch, device, within=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_jitter_in_each_of_its_orders_or_none(device: str) -> None:
    amounts = ([1.05, 0.95, 1.05, 0.02], [0.4, 1.7, 1.6, -0.35])
    rows = [[1.0, *amounts[order % 2], float(order)] for order in range(len(JITTER_ORDERS))]
    for start in range(len(rows)):
        batch = [rows[(start + image) % len(rows)] for image in range(len(IMAGES))]
        batch[start % len(batch)] = [0.0, *amounts[1], 3.0]
        assert_each_is_pillows(JITTER, batch, device)
        unchanged = on_device(JITTER, batch, device)[start % len(batch)]
        np.testing.assert_array_equal(unchanged, IMAGES[start % len(batch)])


@pytest.mark.parametrize("device", DEVICES)
def test_grey_and_flip(device: str) -> None:
    for operation in (operations.RandomGrayscale(probability=0.2), operations.RandomHorizontalFlip()):
        for batch in spread([[0.0], [1.0]]):
            assert_each_is_pillows(operation, batch, device, within=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_mocos_blur(device: str) -> None:
    rows = [[1.0, sigma] for sigma in (0.1, 0.35, 0.5, 0.85, 1.2, 1.5, 2.0)] + [[0.0, 2.0]]
    for batch in spread(rows):
        assert_each_is_pillows(operations.GaussianBlur(), batch, device, within=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_simclrs_blur(device: str) -> None:
    rows = [[1.0, sigma] for sigma in (0.1, 0.5, 1.0, 2.0)] + [[0.0, 2.0]]
    for batch in spread(rows):
        assert_each_is_pillows(operations.GaussianBlur(kernel_share=0.1), batch, device, within=0.05)


def crop_draws(crop: operations.RandomResizedCrop, count: int) -> Numbers:
    return crop.parameters(np.random.default_rng(0).random((count, crop.draws)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [32, 64, 100])
def test_crop_and_resize(size: int, device: str) -> None:
    crop = operations.RandomResizedCrop(size=size, min_area=0.08)
    rows: Rows = crop_draws(crop, len(IMAGES)).tolist()
    # Of the first, 40 x 30 pixels, the width shrinks to 32 and the height grows.
    rows[0][:20] = [0.3] * 10 + [4 / 3] * 10
    for image, view, row in zip(IMAGES, on_device(crop, rows, device), rows, strict=True):
        assert difference(view, reference_step(crop, row)(pil(image))) <= 0.1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 333), (333, 40), (7, 5), (224, 224), (1, 1)])
def test_boxes_are_those_of_single_images(height: int, width: int) -> None:
    crop = operations.RandomResizedCrop(size=32, min_area=0.08)
    drawn = crop_draws(crop, 500)
    single = [crop.box(height, width, row) for row in drawn.tolist()]
    np.testing.assert_array_equal(crop_boxes(crop, height, width, drawn), single)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["moco-v1", "moco-v2", "simclr", "moco-v2-small", "cmc"])
def test_a_recipe_is_what_the_workers_make(name: str, device: str) -> None:
    recipe = view_recipe(name, image_size=48)
    index = np.arange(len(IMAGES))
    drawn = [recipe.draw(seed=1, epoch=2, index=index, view=view) for view in range(recipe.num_views)]
    views = batched_views(torch.from_numpy(IMAGES).to(device), recipe, drawn)
    assert len(views) == recipe.num_views
    found = [
        difference(made.permute(1, 2, 0).cpu().numpy(), recipe.apply(image, [rows[row] for rows in parameters]))
        for view, parameters in zip(views, drawn, strict=True)
        for row, (image, made) in enumerate(zip(IMAGES, view, strict=True))
    ]
    assert np.mean(found) < 0.5
    assert np.max(found) < 2.0


def test_images_are_left_as_they_were() -> None:
    recipe = ViewRecipe(name="jitter", image_size=SIDE, operations=(JITTER,), num_views=2)
    images = torch.from_numpy(IMAGES.copy())
    rows = np.array([[1.0, 0.5, 1.5, 0.5, 0.3, 9.0]] * len(IMAGES))
    first, second = batched_views(images, recipe, [[rows], [rows]])
    assert torch.equal(first, second)
    np.testing.assert_array_equal(images.numpy(), IMAGES)


@pytest.mark.parametrize("name", [name for name, recipe in VIEW_RECIPES.items() if recipe.shared or recipe.more])
def test_patches_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        batched_views(torch.from_numpy(IMAGES), VIEW_RECIPES[name], [])


def test_what_is_wrong_with_the_images_is_said() -> None:
    recipe = view_recipe("moco-v2", image_size=32)
    drawn = [recipe.draw(seed=1, epoch=2, index=np.arange(3), view=view) for view in range(2)]
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\) uint8, not \(7, 3, 64, 64\)"):
        batched_views(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), recipe, drawn)
    with pytest.raises(ValueError, match="not those of 7 images"):
        batched_views(torch.from_numpy(IMAGES), recipe, drawn)
    patches = replace(recipe, operations=VIEW_RECIPES["jigsaw"].operations)
    with pytest.raises(UsageError, match="GridPatch"):
        batched_views(torch.from_numpy(IMAGES), patches, drawn)
