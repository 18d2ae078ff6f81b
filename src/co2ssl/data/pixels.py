"""The pixel work of views: each operation as torchvision does it on PIL images, the form the papers used.

All functions take and return RGB images (H, W, 3) uint8 and change nothing in place. They reproduce Pillow's rounding
(colour operations truncate, resizing rounds), on OpenCV and torch kernels that are several times faster than Pillow's.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

Image = NDArray[np.uint8]
FloatRow = NDArray[np.float32]

# Pillow truncates where OpenCV rounds to nearest; a little less than a half keeps whole numbers whole.
_TRUNCATE = -0.4995

# Pillow rounds to whole levels after each of its box blurs. Of a weak blur that takes a good part away, so the passes
# are done one by one; of a stronger one next to nothing, and they are done as one.
_ROUNDED_PASSES_BELOW = 0.8

# Pixels whose hue is turned at once: their floats, and the factors below, stay in the cache of a core.
_STRIP = 8192

# From OpenCV's float HSV (360, 1, 255) to Pillow's bytes, for a strip: one long row is multiplied an order of magnitude
# faster than many rows of three. What should be whole may come out a rounding error below it, and would be truncated
# to one less: hence a little more than the factors themselves.
_TO_BYTES: FloatRow = np.tile(np.array([255 / 360, 255, 1], dtype=np.float32) * np.float32(1 + 2e-6), _STRIP)


def resize(image: Image, height: int, width: int) -> Image:
    """Bilinear resize with antialiasing, Pillow's definition: the kernel widens by the scale when shrinking."""
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    if height >= old_height and width >= old_width:
        # Enlarging, the antialiased kernel is the plain one, and OpenCV's takes a fifth of the time.
        return _image(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    # torch's kernel for channels-last uint8 is Pillow's algorithm, vectorised; it wants contiguous pixels. The batch of
    # one comes before the channels move: the other way round, torch takes the layout for channels first, and answers in
    # it, which every step after would have to undo.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return _image(resized.permute(0, 2, 3, 1).squeeze(0).numpy())


def resized_crop(image: Image, box: tuple[int, int, int, int], size: int) -> Image:
    """The region ``box`` = (top, left, height, width) as a (size, size, 3) image; pixels outside it play no part."""
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], size, size)


def resize_short_side(image: Image, size: int) -> Image:
    """Resize so that the shorter side is ``size`` and the aspect ratio stays (the longer side is rounded down)."""
    height, width = image.shape[:2]
    if height <= width:
        return resize(image, size, int(size * width / height))
    return resize(image, int(size * height / width), size)


def centre_crop(image: Image, size: int) -> Image:
    """The (size, size, 3) centre of an image no smaller than that."""
    height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def flip(image: Image) -> Image:
    """Left and right exchanged."""
    return _image(cv2.flip(image, 1))


def adjust_brightness(image: Image, factor: float) -> Image:
    """Blend with black: factor 0 is black, 1 the image."""
    return _image(cv2.addWeighted(image, factor, image, 0.0, _TRUNCATE))


def adjust_contrast(image: Image, factor: float) -> Image:
    """Blend with the (rounded) mean of the grey image: factor 0 is one grey, 1 the image."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _image(cv2.addWeighted(image, factor, image, 0.0, mean * (1.0 - factor) + _TRUNCATE))


def adjust_saturation(image: Image, factor: float) -> Image:
    """Blend with the grey image: factor 0 is grey, 1 the image."""
    return _image(cv2.addWeighted(image, factor, to_grey(image), 1.0 - factor, _TRUNCATE))


def adjust_hue(image: Image, shift: float) -> Image:
    """Turn the hue by ``shift``, in turns of the colour circle, -0.5 to 0.5.

    Hue, saturation and value are kept in 8 bits on the way, truncated, as Pillow's HSV images are: the loss that this
    brings is part of the published augmentation.
    """
    pixels = np.ascontiguousarray(image).reshape(1, -1, 3)
    turn = np.zeros(3 * min(_STRIP, pixels.shape[1]), dtype=np.uint8)
    turn[::3] = int(shift * 255) % 256
    turned = np.empty_like(pixels)
    for start in range(0, pixels.shape[1], _STRIP):
        strip = pixels[:, start : start + _STRIP]
        values = strip.size
        hsv = np.asarray(cv2.cvtColor(strip.astype(np.float32), cv2.COLOR_RGB2HSV), dtype=np.float32).reshape(values)
        quantised = np.multiply(hsv, _TO_BYTES[:values], out=hsv).astype(np.uint8)
        quantised += turn[:values]
        # Back, OpenCV's full range is 255 for a whole turn, as Pillow's is (forth it is 256).
        turned[:, start : start + _STRIP] = cv2.cvtColor(quantised.reshape(strip.shape), cv2.COLOR_HSV2RGB_FULL)
    return turned.reshape(image.shape)


def to_grey(image: Image) -> Image:
    """ITU-R 601 luma on all three channels."""
    return _image(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def pil_gaussian_blur(image: Image, sigma: float) -> Image:
    """Pillow's ``ImageFilter.GaussianBlur(radius=sigma)``: three box blurs of fractional width that have this sigma."""
    box = _fractional_box(sigma)
    if sigma < _ROUNDED_PASSES_BELOW:
        for kernel in (*3 * [box[None, :]], *3 * [box[:, None]]):
            image = _image(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE))
        return image
    all_passes = np.convolve(np.convolve(box, box), box)
    # Symmetric to the last bit, or OpenCV takes its general filter, which is several times slower.
    symmetric = ((all_passes + all_passes[::-1]) / 2).astype(np.float32)
    return _image(cv2.sepFilter2D(image, -1, symmetric, symmetric, borderType=cv2.BORDER_REPLICATE))


def gaussian_blur(image: Image, sigma: float, taps: int) -> Image:
    """A sampled Gaussian of ``taps`` (odd) values, mirrored at the border: torchvision's ``gaussian_blur``."""
    offsets = np.arange(taps, dtype=np.float32) - (taps - 1) / 2
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return _image(cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101))


def _fractional_box(sigma: float) -> FloatRow:
    """The box blur that gives a standard deviation of ``sigma`` when done three times, with odd length.

    A box of fractional radius is a flat top with two smaller outer weights. The formula is that of Gwosdek et al.,
    "Theoretical foundations of Gaussian convolution by extended box filtering" (2011), which Pillow implements.
    """
    variance = sigma * sigma / 3
    whole = int((math.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    outer = (2 * whole + 1) * (whole * (whole + 1) - 3.0 * variance) / (6.0 * (variance - (whole + 1) ** 2))
    box = np.full(2 * whole + 3, 1.0 / (2 * whole + 1 + 2 * outer), dtype=np.float32)
    box[[0, -1]] *= outer
    return box


def _image(array: object) -> Image:
    # OpenCV's annotations say only "some array of some number"; every call here returns uint8.
    assert isinstance(array, np.ndarray)
    return array
