"""Pixel work against torchvision's on PIL images, more tightly than the papers need: equal but for rare roundings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from co2ssl.data import pixels
from co2ssl.data.operations import GaussianBlur
from co2ssl.data.pixels import Image

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
