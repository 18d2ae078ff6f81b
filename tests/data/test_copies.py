from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage

from co2ssl.data.copies import MOST_BITS, MOST_LEVELS, Picture, exact_copies, near_copies, picture
from co2ssl.data.pixels import Image


def drawn(seed: int, side: int = 120) -> Image:
    """Blocks and waves: as little alike as photographs."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    waves = [128 + 60 * np.sin(rows * a + columns * b + c) for a, b, c in random.uniform(-20, 20, size=(3, 3))]
    image = np.stack(waves, axis=-1)
    for top, left, height, width in random.integers(0, side, size=(6, 4)):
        image[top : top + height, left : left + width] += random.uniform(-80, 80, size=3)
    drawing: Image = np.clip(image, 0, 255).astype(np.uint8)
    return drawing


def saved(image: Image, *, side: int, quality: int) -> Image:
    file = io.BytesIO()
    PillowImage.fromarray(image).resize((side, side), PillowImage.Resampling.BICUBIC).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(PillowImage.open(file))


def nearly_the_same(one: Picture, other: Picture) -> bool:
    if (one.bits != other.bits).sum() > MOST_BITS:
        return False
    return bool(np.abs(one.small.astype(int) - other.small.astype(int)).mean() <= MOST_LEVELS)


def test_the_same_pixels_are_exact_copies_and_taken_out() -> None:
    first, second = drawn(0), drawn(1)
    other_shape = first.reshape(60, 240, 3)
    pictures = [picture(image) for image in (first, second, first.copy(), other_shape, second, first)]
    copies, distinct = exact_copies(pictures)
    assert copies == [(2, 0), (4, 1), (5, 0)]
    assert distinct == [0, 1, 3]


def test_resized_and_saved_again_is_a_near_copy_and_other_images_are_not() -> None:
    originals = [drawn(seed) for seed in range(60)]
    again = [
        saved(image, side=side, quality=quality)
        for image, (side, quality) in zip(originals, [(120, 40), (80, 60), (48, 75), (200, 90)] * 15, strict=True)
    ]
    assert near_copies([picture(image) for image in originals]) == []
    found = near_copies([picture(image) for image in (*originals, *again)])
    assert found == [(60 + place, place) for place in range(60)]


def test_the_first_of_several_is_named_once() -> None:
    pictures = [picture(saved(drawn(3), side=side, quality=80)) for side in (120, 100, 90)]
    assert near_copies(pictures) == [(1, 0), (2, 0)]


def test_against_every_pair_compared_by_hand() -> None:
    # More than one block of the comparison, and pairs across blocks.
    random = np.random.default_rng(5)
    base = [drawn(seed, side=32) for seed in range(40)]
    images = [
        np.clip(base[number % 40] + random.normal(0, number % 23, (32, 32, 3)), 0, 255).astype(np.uint8)
        for number in range(700)
    ]
    pictures = [picture(image) for image in images]
    expected = {}
    for later, one in enumerate(pictures):
        alike = (earlier for earlier, other in enumerate(pictures[:later]) if nearly_the_same(one, other))
        if (first := next(alike, None)) is not None:
            expected[later] = first
    assert near_copies(pictures) == sorted(expected.items())
    assert 300 < len(expected) < 600


def test_odd_shapes_have_a_picture() -> None:
    for shape in ((1, 1, 3), (1, 5000, 3), (5000, 1, 3)):
        one = picture(np.full(shape, 200, np.uint8))
        assert one.small.shape == (16, 16, 3)
        assert not one.bits.any()
    assert near_copies([picture(np.zeros((4, 4, 3), np.uint8))]) == []
