"""Every operation against torchvision's on PIL images, with the same drawn parameters, on real photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from co2ssl.data import operations, patches, photometric, pixels
from co2ssl.data.operations import JITTER_ORDERS, RandomOperation
from co2ssl.data.pixels import Image
from co2ssl.data.views import VIEW_RECIPES, draw_views, make_views
from tests.data.photographs import (
    REGIONS,
    assert_parity,
    difference,
    photograph,
    photometric_reference,
    pil,
    reference_step,
    reference_view,
    view_sized,
)

BILINEAR = InterpolationMode.BILINEAR
SIZES = [64, 224]
FACTORS = [0.0, 0.2, 0.6, 0.95, 1.0, 1.05, 1.4, 1.8]
SHIFTS = [-0.5, -0.4, -0.2, -0.1, -0.02, 0.0, 0.01, 0.05, 0.1, 0.3, 0.5]
SIGMAS = [0.1, 0.2, 0.35, 0.5, 0.75, 0.85, 1.0, 1.2, 1.5, 2.0]
BLURRED_SIZES = [64, 96, 224]


def everywhere(ours: Callable[[Image], Image], theirs: Callable[[PilImage.Image], Any], sizes: list[int]) -> None:
    for side in sizes:
        for region in REGIONS:
            image = view_sized(region, side)
            assert_parity(ours(image), theirs(pil(image)), image)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_factor_of_jitter(name: str, factor: float) -> None:
    ours, theirs = getattr(pixels, f"adjust_{name}"), getattr(tv, f"adjust_{name}")
    everywhere(lambda image: ours(image, factor), lambda image: theirs(image, factor), [32, *SIZES])


@pytest.mark.parametrize("shift", SHIFTS)
def test_hue(shift: float) -> None:
    everywhere(lambda image: pixels.adjust_hue(image, shift), lambda image: tv.adjust_hue(image, shift), [32, *SIZES])


@pytest.mark.parametrize("strength", ["small", "large"])
def test_jitter_in_each_of_its_orders(strength: str) -> None:
    jitter = operations.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4)
    amounts = {"small": (1.05, 0.95, 1.05, 0.02), "large": (0.4, 1.7, 1.6, -0.35)}[strength]
    results = set()
    for order in range(len(JITTER_ORDERS)):
        row = (1.0, *amounts, float(order))
        image = view_sized("roofs", 64)
        ours = jitter.apply(image, row)
        assert_parity(ours, reference_step(jitter, row)(pil(image)), image)
        results.add(ours.tobytes())
    # Clamping and rounding in between make the order matter.
    assert len(results) >= 12


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mocos_blur(sigma: float) -> None:
    everywhere(
        lambda image: pixels.pil_gaussian_blur(image, sigma),
        lambda image: image.filter(ImageFilter.GaussianBlur(radius=sigma)),
        BLURRED_SIZES,
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_simclrs_blur(sigma: float) -> None:
    for side in BLURRED_SIZES:
        taps = 2 * (side // 10 // 2) + 1
        everywhere(
            lambda image, taps=taps: pixels.gaussian_blur(image, sigma, taps),  # type: ignore[misc]
            lambda image, taps=taps: tv.gaussian_blur(image, [taps, taps], [sigma, sigma]),  # type: ignore[misc]
            [side],
        )


def test_grey_and_flip() -> None:
    everywhere(pixels.to_grey, lambda image: tv.rgb_to_grayscale(image, num_output_channels=3), SIZES)
    for region in REGIONS:
        np.testing.assert_array_equal(pixels.flip(photograph(region)), np.asarray(tv.hflip(pil(photograph(region)))))


def resized_effect(image: PilImage.Image, height: int, width: int) -> PilImage.Image:
    """Without the operation: the nearest pixel in the place of each."""
    return image.resize((width, height), PilImage.Resampling.NEAREST)


@pytest.mark.parametrize("target", [(32, 32), (64, 64), (224, 224), (400, 400), (300, 90), (90, 300), (1, 1)])
def test_resize_up_and_down(target: tuple[int, int]) -> None:
    for region in REGIONS:
        image = photograph(region)
        reference = tv.resize(pil(image), list(target), BILINEAR, antialias=True)
        assert_parity(pixels.resize(image, *target), reference, resized_effect(pil(image), *target))


# (photograph, (top, left, height, width)): a tenth to all of the image; off centre; flat and tall.
BOXES = [
    ("china", (0, 0, 427, 640)),
    ("china", (150, 80, 200, 250)),
    ("china", (60, 120, 61, 47)),
    ("china", (300, 500, 120, 90)),
    ("flower", (100, 150, 300, 260)),
    ("flower", (200, 300, 20, 31)),
    ("flower", (0, 401, 427, 239)),
]


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@pytest.mark.parametrize(("name", "box"), BOXES)
def test_crop_and_resize(name: str, box: tuple[int, int, int, int], size: int) -> None:
    image = photograph(name)
    reference = tv.resized_crop(pil(image), *box, [size, size], BILINEAR, antialias=True)
    before = resized_effect(tv.crop(pil(image), *box), size, size)
    assert_parity(pixels.resized_crop(image, box, size), reference, before)


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (73, 64), (37, 32), (500, 448)])
def test_evaluation_crop(resize: int, size: int) -> None:
    for region in REGIONS:
        image = photograph(region)
        reference = tv.center_crop(tv.resize(pil(image), [resize], BILINEAR, antialias=True), [size, size])
        nearest = tv.center_crop(tv.resize(pil(image), [resize], InterpolationMode.NEAREST), [size, size])
        assert_parity(pixels.centre_crop(pixels.resize_short_side(image, resize), size), reference, nearest)


# Each operation with rows of drawn parameters that cover what it can do, and the size of what it gets.
DRAWN: list[tuple[RandomOperation, list[list[float]]]] = [
    (operations.RandomGrayscale(probability=0.2), [[0.0], [1.0]]),
    (operations.RandomHorizontalFlip(), [[0.0], [1.0]]),
    (operations.GaussianBlur(), [[0.0, 1.0], [1.0, 0.2], [1.0, 2.0]]),
    (operations.GaussianBlur(kernel_share=0.1), [[0.0, 1.0], [1.0, 0.4], [1.0, 2.0]]),
    (photometric.RandomMeanGrey(probability=0.66), [[0.0], [1.0]]),
    (
        photometric.RandomPhotometric(),
        [[0.0, 4.0, 1.5, 9.0], [1.0, 4.0, 0.1, 256.0], [1.0, 8.0, 1.9, 128.0], [1.0, 6.0, 1.02, 0.0]],
    ),
    (patches.RandomCrop(size=60), [[0.0, 0.0], [0.999, 0.999], [0.3, 0.7]]),
    (patches.GridPatch(grid=3, stride=20, size=12, positions=9), [[0.0, 0.0, 0.0], [5.0, 3.0, 8.0], [8.0, 8.0, 8.0]]),
    (patches.RandomWindow(size=60), [[0.0, 0.0], [0.999, 0.999], [0.3, 0.7]]),
    (patches.ResizeShortSide(size=40), [[]]),
    (patches.ResizeSquare(size=90), [[]]),
]


@pytest.mark.parametrize(("operation", "rows"), DRAWN, ids=lambda value: type(value).__name__)
def test_an_operation_with_what_it_drew(operation: RandomOperation, rows: list[list[float]]) -> None:
    for region in REGIONS:
        image = view_sized(region, 64)
        for row in rows:
            ours, theirs = operation.apply(image, row), reference_step(operation, row)(pil(image))
            assert_parity(ours, theirs, resized_effect(pil(image), *ours.shape[:2]))


def test_posterise_solarise_and_autocontrast_are_pillows_to_the_bit() -> None:
    for region in REGIONS:
        image = view_sized(region, 64)
        for bits, threshold in ((4, 0), (5, 100), (7, 255), (8, 256)):
            ours = photometric.autocontrast(photometric.solarise(photometric.posterise(image, bits), threshold))
            np.testing.assert_array_equal(ours, np.asarray(photometric_reference(pil(image), bits, 1.0, threshold)))


@pytest.mark.parametrize("factor", [0.1, 0.6, 0.97, 1.0, 1.03, 1.5, 1.9])
def test_sharpness(factor: float) -> None:
    everywhere(
        lambda image: photometric.sharpen(image, factor), lambda image: tv.adjust_sharpness(image, factor), SIZES
    )


# 48 views of each recipe, over both photographs and their regions.
@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_a_whole_recipe(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    differences = []
    for index in range(max(1, 48 // recipe.num_views)):
        image = photograph(["china", "flower", *REGIONS][index % 9])
        drawn = draw_views(recipe, seed=3, epoch=1, index=index)
        views = make_views(image, recipe, seed=3, epoch=1, index=index)
        assert tuple(view.shape for view in views) == tuple((size, size, 3) for size in recipe.sizes)
        for number in range(0, recipe.num_views, max(1, recipe.num_views // 9)):
            reference = reference_view(image, recipe.steps(number), drawn[number])
            differences.append(difference(views[number], reference))
    # Differences of operations add up along the recipe, and stretching the contrast (PIRL) enlarges them.
    assert np.mean(differences) < 0.5
    assert np.max(differences) < 2.0


# What the comparison must not let through.


def test_a_resize_without_antialiasing_is_noticed() -> None:
    image = photograph("temple")
    plain = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    reference = tv.resize(pil(image), [64, 64], BILINEAR, antialias=True)
    with pytest.raises(AssertionError):
        assert_parity(np.asarray(plain, dtype=np.uint8), reference, resized_effect(pil(image), 64, 64))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_blur_of_another_width_is_noticed(sigma: float) -> None:
    image = view_sized("temple", 224)
    reference = pil(image).filter(ImageFilter.GaussianBlur(radius=sigma))
    for wrong in (image, pixels.pil_gaussian_blur(image, 1.4 * sigma)):
        with pytest.raises(AssertionError):
            assert_parity(wrong, reference, image)


@pytest.mark.parametrize("shift", [-0.4, -0.05, 0.02, 0.1])
def test_a_hue_turned_too_far_is_noticed(shift: float) -> None:
    image = view_sized("petals", 224)
    with pytest.raises(AssertionError):
        assert_parity(pixels.adjust_hue(image, 1.3 * shift), tv.adjust_hue(pil(image), shift), image)


def test_saturation_for_contrast_is_noticed() -> None:
    image = view_sized("petals", 224)
    with pytest.raises(AssertionError):
        assert_parity(pixels.adjust_contrast(image, 0.9), tv.adjust_saturation(pil(image), 0.9), image)
