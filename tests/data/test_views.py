from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageFilter
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from co2ssl.data import operations, pixels
from co2ssl.data.operations import JITTER_ORDERS, ColorJitter, GaussianBlur
from co2ssl.data.pixels import Image
from co2ssl.data.views import VIEW_RECIPES, ViewRecipe, make_views, view_recipe
from co2ssl.errors import UsageError

BILINEAR = InterpolationMode.BILINEAR
FACTORS = [0.0, 0.2, 0.6, 0.95, 1.0, 1.05, 1.4, 1.8]
SIZES = [(40, 40), (64, 64), (97, 131)]


def photo(height: int, width: int, seed: int = 0) -> Image:
    """Smooth colour, edges, texture and noise, reaching black, white and pure colours."""
    generator = np.random.default_rng(seed)
    coarse = PilImage.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PilImage.Resampling.BICUBIC)).astype(np.float64)
    y, x = np.mgrid[:height, :width]
    texture = 25 * np.sin(x / 1.7 + 3 * np.sin(y / 9))[..., None] * generator.uniform(0.3, 1, 3)
    edges = np.where(((x // 11 + y // 7) % 5 == 0)[..., None], generator.uniform(-90, 90, 3), 0)
    noise = generator.normal(0, 4, (height, width, 3))
    image: Image = np.clip(1.3 * (smooth - 128) + 128 + texture + edges + noise, 0, 255).astype(np.uint8)
    return image


def pil(image: Image) -> PilImage.Image:
    return PilImage.fromarray(image)


def assert_parity(ours: Image, theirs: PilImage.Image | Image, before: Image) -> None:
    """Mean absolute difference at most half a grey level, or a tenth of what the operation does."""
    reference = np.asarray(theirs).astype(np.float64)
    assert ours.shape == reference.shape
    assert ours.dtype == np.uint8
    difference = np.abs(ours - reference).mean()
    effect = np.abs(reference - before).mean() if before.shape == reference.shape else 0.0
    assert difference <= max(0.5, effect / 10), f"difference {difference:.3f}, effect {effect:.3f}"
    # No part of the image may be off either: what a mean could hide at a border or in one colour.
    assert np.abs(ours - reference).max() <= max(12, effect)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_contrast_and_saturation_are_pillows(factor: float, size: tuple[int, int]) -> None:
    image = photo(*size)
    for ours, theirs in (
        (pixels.adjust_brightness, tv.adjust_brightness),
        (pixels.adjust_contrast, tv.adjust_contrast),
        (pixels.adjust_saturation, tv.adjust_saturation),
    ):
        reference = np.asarray(theirs(pil(image), factor)).astype(int)
        assert np.abs(ours(image, factor) - reference).max() <= 1
        # Where a product is a whole number, one more or less is a matter of float rounding.
        assert (ours(image, factor) != reference).mean() < 0.06


@pytest.mark.parametrize("shift", [-0.5, -0.3, -0.1, -0.02, 0.0, 0.01, 0.05, 0.1, 0.25, 0.4, 0.5])
def test_hue_is_pillows(shift: float) -> None:
    for seed, size in enumerate(SIZES):
        image = photo(*size, seed=seed)
        reference = np.asarray(tv.adjust_hue(pil(image), shift)).astype(int)
        # Equal but for rare roundings, not merely near.
        assert (np.abs(pixels.adjust_hue(image, shift) - reference) > 1).mean() < 5e-3
        assert np.abs(pixels.adjust_hue(image, shift) - reference).mean() < 0.02


def test_hue_on_every_kind_of_colour() -> None:
    levels = np.array([0, 1, 2, 51, 85, 127, 128, 170, 204, 254, 255], dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(11, 121, 3)
    for shift in (0.0, 1 / 3, -0.2, 0.5):
        reference = np.asarray(tv.adjust_hue(pil(colours), shift)).astype(int)
        assert np.abs(pixels.adjust_hue(colours, shift) - reference).mean() < 0.05


def test_grey_is_pillows() -> None:
    image = photo(60, 70)
    reference = np.asarray(tv.rgb_to_grayscale(pil(image), num_output_channels=3)).astype(int)
    assert np.abs(pixels.to_grey(image) - reference).max() <= 1
    assert (pixels.to_grey(image) != reference).mean() < 0.02


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (224, 224)])
def test_moco_blur_is_pillows(sigma: float, size: tuple[int, int]) -> None:
    image = photo(*size)
    assert_parity(pixels.pil_gaussian_blur(image, sigma), pil(image).filter(ImageFilter.GaussianBlur(sigma)), image)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_simclr_blur_is_torchvisions(sigma: float, size: int) -> None:
    image = photo(size, size)
    taps = 2 * (size // 10 // 2) + 1
    assert_parity(pixels.gaussian_blur(image, sigma, taps), tv.gaussian_blur(pil(image), [taps, taps], [sigma]), image)


def test_simclr_blur_takes_its_width_from_the_view() -> None:
    blur = GaussianBlur(kernel_share=0.1)
    for size, taps in ((224, 23), (96, 9), (64, 7), (32, 3)):
        image = photo(size, size)
        np.testing.assert_array_equal(blur.apply(image, [1.0, 1.5]), pixels.gaussian_blur(image, 1.5, taps))


@pytest.mark.parametrize("target", [(32, 32), (64, 64), (224, 224), (50, 90), (90, 50), (1, 1)])
@pytest.mark.parametrize("size", [(40, 40), (64, 64), (200, 150), (300, 41), (1, 1), (1, 80)])
def test_resize_is_pillows(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = photo(*size)
    reference = tv.resize(pil(image), list(target), BILINEAR, antialias=True)
    assert_parity(pixels.resize(image, *target), reference, image)


@pytest.mark.parametrize(("box", "size"), [((3, 5, 20, 30), 32), ((0, 0, 90, 120), 32), ((17, 1, 33, 21), 48)])
def test_crop_then_resize_is_pillows(box: tuple[int, int, int, int], size: int) -> None:
    image = photo(90, 120)
    reference = tv.resized_crop(pil(image), *box, [size, size], BILINEAR, antialias=True)
    assert_parity(pixels.resized_crop(image, box, size), reference, image)


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (77, 77), (51, 33), (40, 200)])
def test_evaluation_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    image = photo(*shape)
    reference = tv.center_crop(tv.resize(pil(image), [37], BILINEAR, antialias=True), [32, 32])
    assert_parity(pixels.centre_crop(pixels.resize_short_side(image, 37), 32), reference, image)


def test_flip_is_left_and_right() -> None:
    image = photo(9, 14)
    np.testing.assert_array_equal(pixels.flip(image), image[:, ::-1])


def reference_view(image: Image, recipe: ViewRecipe, drawn: list[list[float]]) -> PilImage.Image:
    """The recipe by torchvision and Pillow alone, with the same drawn parameters."""
    view = pil(image)
    for operation, row in zip(recipe.operations, drawn, strict=True):
        match operation:
            case operations.RandomResizedCrop():
                box = operation.box(view.height, view.width, row)
                view = tv.resized_crop(view, *box, [operation.size, operation.size], BILINEAR, antialias=True)
            case ColorJitter() if row[0]:
                adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
                for which in JITTER_ORDERS[int(row[5])]:
                    view = adjust[which](view, row[1 + which])
            case operations.RandomGrayscale() if row[0]:
                view = tv.rgb_to_grayscale(view, num_output_channels=3)
            case GaussianBlur(kernel_share=None) if row[0]:
                view = view.filter(ImageFilter.GaussianBlur(row[1]))
            case GaussianBlur() if row[0]:
                taps = 2 * (view.width // 10 // 2) + 1
                view = tv.gaussian_blur(view, [taps, taps], [row[1]])
            case operations.RandomHorizontalFlip() if row[0]:
                view = tv.hflip(view)
    return view


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_whole_recipe_is_torchvisions(name: str) -> None:
    recipe = view_recipe(name, image_size=64)
    differences = []
    for index in range(24):
        image = photo(120, 150, seed=index)
        views = make_views(image, recipe, seed=3, epoch=1, index=index)
        assert len(views) == 2
        for number, view in enumerate(views):
            drawn = recipe.draw(seed=3, epoch=1, index=np.array([index]), view=number)
            reference = reference_view(image, recipe, [rows[0].tolist() for rows in drawn])
            assert view.shape == (64, 64, 3)
            differences.append(np.abs(view - np.asarray(reference).astype(float)).mean())
    assert np.mean(differences) < 0.5
    assert np.max(differences) < 1.5


def operation(recipe: ViewRecipe, kind: type[Any]) -> Any:
    return next(step for step in recipe.operations if isinstance(step, kind))


PUBLISHED_ORDER = {
    "moco-v1": ["RandomResizedCrop", "RandomGrayscale", "ColorJitter", "RandomHorizontalFlip"],
    "moco-v2": ["RandomResizedCrop", "ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomHorizontalFlip"],
    "simclr": ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "RandomGrayscale", "GaussianBlur"],
    "moco-v1-small": ["RandomResizedCrop", "RandomGrayscale", "ColorJitter", "RandomHorizontalFlip"],
    "moco-v2-small": ["RandomResizedCrop", "ColorJitter", "RandomGrayscale", "RandomHorizontalFlip"],
    "simclr-small": ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "RandomGrayscale"],
}

# Smallest crop; brightness, contrast, saturation, hue, probability.
PUBLISHED_VALUES = {
    "moco-v1": (0.2, (0.4, 0.4, 0.4, 0.4, 1.0)),
    "moco-v2": (0.2, (0.4, 0.4, 0.4, 0.1, 0.8)),
    "simclr": (0.08, (0.8, 0.8, 0.8, 0.2, 0.8)),
    "moco-v1-small": (0.2, (0.4, 0.4, 0.4, 0.4, 1.0)),
    "moco-v2-small": (0.2, (0.4, 0.4, 0.4, 0.1, 0.8)),
    "simclr-small": (0.08, (0.4, 0.4, 0.4, 0.1, 0.8)),
}


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_recipes_have_the_published_operations(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    assert [type(step).__name__ for step in recipe.operations] == PUBLISHED_ORDER[name]
    min_area, jitter_values = PUBLISHED_VALUES[name]
    crop, jitter = operation(recipe, operations.RandomResizedCrop), operation(recipe, ColorJitter)
    assert (crop.min_area, crop.max_area, crop.min_aspect, crop.max_aspect) == (min_area, 1.0, 3 / 4, 4 / 3)
    assert crop.size == recipe.image_size == (32 if name.endswith("small") else 224)
    amounts = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, jitter.probability)
    assert amounts == jitter_values
    assert operation(recipe, operations.RandomGrayscale).probability == 0.2
    assert operation(recipe, operations.RandomHorizontalFlip).probability == 0.5
    if "GaussianBlur" in PUBLISHED_ORDER[name]:
        blur = operation(recipe, GaussianBlur)
        assert (blur.min_sigma, blur.max_sigma, blur.probability) == (0.1, 2.0, 0.5)
        assert blur.kernel_share == (0.1 if name == "simclr" else None)


def test_changes_to_a_recipe() -> None:
    recipe = view_recipe("simclr", image_size=48, min_area=0.3, jitter_strength=0.5)
    assert recipe.image_size == operation(recipe, operations.RandomResizedCrop).size == 48
    assert operation(recipe, operations.RandomResizedCrop).min_area == 0.3
    assert operation(recipe, ColorJitter) == operation(view_recipe("simclr-small"), ColorJitter)
    assert view_recipe("moco-v2") == VIEW_RECIPES["moco-v2"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("moco-v3", {}, "did you mean moco-v[12]"),
        ("zzz", {}, "there are moco-v1, "),
        ("moco-v2", {"image_size": 0}, "image size 0"),
        ("moco-v2", {"min_area": 0.0}, "smallest crop area 0.0"),
        ("moco-v2", {"min_area": 1.5}, "smallest crop area 1.5"),
        ("simclr", {"jitter_strength": 3.0}, "at most 2.5"),
        ("simclr", {"jitter_strength": -1.0}, "at least 0"),
    ],
)
def test_impossible_recipes_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        view_recipe(name, **changes)


def draw(recipe: ViewRecipe, count: int, view: int = 0) -> dict[str, dict[str, NDArray[np.float64]]]:
    drawn = recipe.draw(seed=2, epoch=0, index=np.arange(count), view=view)
    return {
        type(step).__name__: dict(zip(step.columns, values.T, strict=True))
        for step, values in zip(recipe.operations, drawn, strict=True)
    }


def assert_uniform(values: NDArray[np.float64], low: float, high: float) -> None:
    """Kolmogorov-Smirnov at one in a million; the numbers are fixed, so this does not fail now and then."""
    ordered = (np.sort(values) - low) / (high - low)
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    grid = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(grid - ordered).max() < 2.7 / math.sqrt(len(values))


@pytest.mark.parametrize("name", ["moco-v2", "simclr", "moco-v1"])
def test_drawn_parameters_have_the_published_distributions(name: str) -> None:
    count = 20_000
    drawn = draw(VIEW_RECIPES[name], count)
    min_area, (brightness, contrast, saturation, hue, probability) = PUBLISHED_VALUES[name]
    crop, jitter = drawn["RandomResizedCrop"], drawn["ColorJitter"]
    for attempt in (0, 9):
        assert_uniform(crop[f"area_{attempt}"], min_area, 1)
        assert_uniform(np.log(crop[f"aspect_{attempt}"]), math.log(3 / 4), math.log(4 / 3))
    assert_uniform(crop["vertical"], 0, 1)
    assert_uniform(crop["horizontal"], 0, 1)
    for column, amount in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        assert_uniform(jitter[column], 1 - amount, 1 + amount)
    assert_uniform(jitter["hue"], -hue, hue)
    orders = np.bincount(jitter["order"].astype(int), minlength=24)
    assert orders.shape == (24,)
    assert float(((orders - count / 24) ** 2 / (count / 24)).sum()) < 60  # 23 degrees of freedom
    shares = {"ColorJitter": probability, "RandomGrayscale": 0.2, "RandomHorizontalFlip": 0.5, "GaussianBlur": 0.5}
    for kind, share in shares.items():
        if kind in drawn:
            assert abs(drawn[kind]["applied"].mean() - share) <= 5 * math.sqrt(share * (1 - share) / count)
    if "GaussianBlur" in drawn:
        assert_uniform(drawn["GaussianBlur"]["sigma"], 0.1, 2.0)
        applied = drawn["GaussianBlur"]["applied"]
        assert abs(np.corrcoef(applied, drawn["RandomHorizontalFlip"]["applied"])[0, 1]) < 0.04


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 300), (20, 1000), (37, 31)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count = 4000
    crop = operations.RandomResizedCrop(size=32, min_area=0.2)
    (values,) = ViewRecipe(name="crop", image_size=32, operations=(crop,)).draw(
        seed=1, epoch=0, index=np.arange(count), view=0
    )
    ours = np.array([crop.box(height, width, row) for row in values.tolist()])
    blank = PilImage.new("RGB", (width, height))
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)], dtype=np.int64
    )
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        points = np.union1d(ours[:, column], theirs[:, column])
        distance = np.abs(
            np.searchsorted(np.sort(ours[:, column]), points, side="right")
            - np.searchsorted(np.sort(theirs[:, column]), points, side="right")
        ).max()
        # Two-sample Kolmogorov-Smirnov at one in a million.
        assert distance / count < 2.7 * math.sqrt(2 / count)


def test_views_are_a_function_of_seed_epoch_index_and_view() -> None:
    image = photo(80, 80)
    recipe = view_recipe("moco-v2", image_size=32)
    first = make_views(image, recipe, seed=0, epoch=0, index=5)
    again = make_views(image.copy(), recipe, seed=0, epoch=0, index=5)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    changed = [
        *first,
        make_views(image, recipe, seed=1, epoch=0, index=5)[0],
        make_views(image, recipe, seed=0, epoch=1, index=5)[0],
        make_views(image, recipe, seed=0, epoch=0, index=6)[0],
    ]
    assert len({view.tobytes() for view in changed}) == 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (700, 3)])
@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_images_of_any_shape_give_views(name: str, shape: tuple[int, int]) -> None:
    recipe = view_recipe(name, image_size=40)
    image = photo(*shape)
    before = image.copy()
    for index in range(4):
        for view in make_views(image, recipe, seed=0, epoch=0, index=index):
            assert view.shape == (40, 40, 3)
            assert view.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
