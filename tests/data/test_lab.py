"""Lab colour against an explicit formula, scikit-image and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab

from co2ssl.data.lab import LAB_HIGH, LAB_LOW, lab_views, rgb_to_lab
from co2ssl.data.pixels import Image
from tests.data.photographs import REGIONS, photograph


def every_colour() -> Image:
    """Every 17th level of each channel, black, white and pure colours among them, (256, 16, 3)."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(256, 16, 3)


def explicit_lab(image: Image) -> NDArray[np.float64]:
    """CIE Lab of sRGB under D65 in double precision, one channel at a time."""
    colour = image.astype(np.float64) / 255
    linear = np.empty_like(colour)
    dark = colour <= 0.04045
    linear[dark] = colour[dark] / 12.92
    linear[~dark] = ((colour[~dark] + 0.055) / 1.055) ** 2.4
    red, green, blue = np.moveaxis(linear, -1, 0)
    x = (0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.95047
    y = 0.212671 * red + 0.715160 * green + 0.072169 * blue
    z = (0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.08883
    fx, fy, fz = (np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116) for part in (x, y, z))
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def ours(image: Image) -> NDArray[np.float32]:
    lab = rgb_to_lab(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    assert lab.dtype == torch.float32
    result: NDArray[np.float32] = lab[0].permute(1, 2, 0).numpy()
    return result


IMAGES = {"colours": every_colour(), **{name: photograph(name) for name in REGIONS}}


@pytest.mark.parametrize("name", IMAGES)
def test_lab_is_the_formulas(name: str) -> None:
    np.testing.assert_allclose(ours(IMAGES[name]), explicit_lab(IMAGES[name]), atol=2e-3)


def test_lab_is_scikit_images() -> None:
    for image in IMAGES.values():
        np.testing.assert_allclose(ours(image), rgb2lab(image), atol=2e-3)


@pytest.mark.parametrize("name", IMAGES)
def test_lab_is_opencvs(name: str) -> None:
    # OpenCV interpolates its tables and has a slightly other white.
    theirs = cv2.cvtColor(IMAGES[name].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    assert np.abs(ours(IMAGES[name]) - theirs).mean() < 0.2
    assert np.abs(ours(IMAGES[name]) - theirs).max() < 0.6


def test_known_colours() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    expected: list[list[float]] = [
        [0, 0, 0],
        [100, 0, 0],
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
    ]
    np.testing.assert_allclose(ours(colours)[0], expected, atol=0.03)


def test_ranges_are_those_of_srgb() -> None:
    # The extremes of a and b lie on the surface of the cube, where one channel is 0 or 255.
    whole, some = np.arange(256, dtype=np.uint8), np.arange(0, 256, 3, dtype=np.uint8)
    faces = []
    for channel in range(3):
        for level in (0, 255):
            face = np.stack(np.meshgrid(whole, some), axis=-1)
            faces.append(np.insert(face, channel, level, axis=-1).reshape(-1, 3))
    lab = ours(np.concatenate(faces)[None].astype(np.uint8))[0]
    np.testing.assert_allclose(lab.min(axis=0), LAB_LOW, atol=0.02)
    np.testing.assert_allclose(lab.max(axis=0), LAB_HIGH, atol=0.02)


def test_views_of_cmc() -> None:
    batch = torch.stack([torch.from_numpy(photograph(name)[:64, :64].copy()) for name in REGIONS]).permute(0, 3, 1, 2)
    batch[0, :, 0, 0] = 0
    batch[0, :, 0, 1] = 255
    light, colour = lab_views((batch,))
    assert light.shape == (len(REGIONS), 1, 64, 64)
    assert colour.shape == (len(REGIONS), 2, 64, 64)
    # train_CMC.py: mean and deviation for torchvision's Normalize, half the sum and half the width of each range.
    mean = torch.tensor([50.0, (-86.183 + 98.233) / 2, (-107.857 + 94.478) / 2]).view(3, 1, 1)
    deviation = torch.tensor([50.0, (86.183 + 98.233) / 2, (107.857 + 94.478) / 2]).view(3, 1, 1)
    lab = torch.from_numpy(explicit_lab(batch.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)
    expected = (lab - mean) / deviation
    torch.testing.assert_close(torch.cat([light, colour], dim=1).double(), expected, atol=1e-4, rtol=0)
    assert light[0, 0, 0, 0] == -1
    assert light[0, 0, 0, 1] == pytest.approx(1, abs=1e-5)
    assert len(lab_views((batch, batch[:2]))) == 4
