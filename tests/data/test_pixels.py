"""What makes pixel work fast must not show in the pixels: strips, memory layout, kernels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import ImageFilter

from co2ssl.data import pixels
from tests.data.photographs import difference, photograph, pil, view_sized


@pytest.mark.parametrize("shift", [-0.35, 0.0, 0.1])
def test_hue_does_not_depend_on_what_is_turned_at_once(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph("petals")
    assert image.shape[0] * image.shape[1] > pixels._STRIP
    whole = pixels.adjust_hue(image, shift)
    rows = [pixels.adjust_hue(image[row : row + 7], shift) for row in range(0, len(image), 7)]
    np.testing.assert_array_equal(whole, np.concatenate(rows))
    monkeypatch.setattr(pixels, "_STRIP", 101)
    np.testing.assert_array_equal(pixels.adjust_hue(image, shift), whole)


def test_hue_of_pixels_that_do_not_lie_in_one_piece() -> None:
    image = photograph("china")
    for view in (image[10:90, 20:81], image[::2, ::-1], np.asfortranarray(image)):
        np.testing.assert_array_equal(pixels.adjust_hue(view, 0.1), pixels.adjust_hue(view.copy(), 0.1))
    assert pixels.adjust_hue(image[:1, :1], 0.3).shape == (1, 1, 3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 500), (400, 64), (450, 700), (427, 640)])
def test_a_resized_image_lies_in_one_piece(height: int, width: int) -> None:
    """Rows of pixels one after the other: what every operation after it works on, and would have to copy first."""
    resized = pixels.resized_crop(photograph("china"), (0, 0, 427, 640), 64)
    assert resized.flags.c_contiguous
    assert pixels.resize(photograph("china"), height, width).flags.c_contiguous


@pytest.mark.parametrize("sigma", [0.13, 0.3, 0.47, 0.62, 0.79])
def test_a_weak_blur_rounds_after_each_pass_as_pillow_does(sigma: float) -> None:
    for side in (32, 64, 224):
        image = view_sized("temple", side)
        assert (
            difference(pixels.pil_gaussian_blur(image, sigma), pil(image).filter(ImageFilter.GaussianBlur(sigma)))
            < 0.01
        )


def test_a_strong_blur_has_a_kernel_that_is_symmetric_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's fast filters take no other."""
    kernels = []
    original = cv2.sepFilter2D

    def kept(image: object, depth: int, across: pixels.FloatRow, along: pixels.FloatRow, **given: int) -> object:
        kernels.extend([across, along])
        return original(image, depth, across, along, **given)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "sepFilter2D", kept)
    for sigma in np.linspace(0.8, 2.0, 40).tolist():
        pixels.pil_gaussian_blur(view_sized("temple", 32), sigma)
    for taps in (3, 7, 23):
        pixels.gaussian_blur(view_sized("temple", 32), 0.7, taps)
    assert len(kernels) == 86
    for kernel in kernels:
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, kernel[::-1])
