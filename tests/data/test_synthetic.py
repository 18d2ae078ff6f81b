"""The drawn data set: pure in its index, and telling its classes by shape alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from co2ssl.data.synthetic import CLASSES, SPLITS, Shapes
from co2ssl.errors import UsageError


def stack(source: Shapes) -> NDArray[np.float64]:
    return np.stack([source.load(index) for index in range(len(source))]).astype(np.float64)


def test_an_image_depends_on_its_index_alone() -> None:
    forwards = Shapes(30, 24, seed=3)
    images = [forwards.load(index) for index in range(30)]
    larger = Shapes(1000, 24, seed=3)
    for index in reversed(range(30)):
        np.testing.assert_array_equal(images[index], larger.load(index))
    assert larger.labels[:30].tolist() == forwards.labels.tolist()


def test_no_image_is_drawn_twice() -> None:
    sources = [Shapes(40, 16, seed=seed, split=split) for seed in (0, 1) for split in SPLITS]
    drawn = [source.load(index).tobytes() for source in sources for index in range(40)]
    assert len(set(drawn)) == len(drawn)


def test_classes_are_balanced() -> None:
    source = Shapes(200, 16, seed=0)
    assert source.labels.dtype == np.int64
    assert np.bincount(source.labels).tolist() == [20] * len(CLASSES)
    assert source.classes == CLASSES
    assert source.describe(11) == "train/ring/000011"


@pytest.mark.parametrize("size", [1, 16, 33, 96])
def test_any_size(size: int) -> None:
    image = Shapes(10, size, seed=0).load(7)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_a_larger_size_is_the_same_picture() -> None:
    small = stack(Shapes(20, 24, seed=0))
    large = stack(Shapes(20, 96, seed=0)).reshape(20, 24, 4, 24, 4, 3).mean(axis=(2, 4))
    for one, other in zip(small, large, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_pixels_use_the_range_without_saturating() -> None:
    images = stack(Shapes(100, 32, seed=0))
    assert 110 < images.mean() < 145
    assert images.std() > 20
    assert np.mean((images == 0) | (images == 255)) < 0.02


def test_shapes_differ_between_classes() -> None:
    """Two classes drawn from the same random numbers are different pictures."""
    images = stack(Shapes(10, 32, seed=0))
    assert len({image.tobytes() for image in images}) == len(CLASSES)


def test_colour_position_and_light_say_nothing_about_the_class() -> None:
    source = Shapes(900, 24, seed=5)
    images, labels = stack(source) / 255, source.labels
    centred = np.abs(images - images.mean(axis=(1, 2), keepdims=True)).mean(axis=3)
    along = np.linspace(-1, 1, 24)
    weight = centred.sum(axis=(1, 2))
    statistics = np.column_stack(
        [
            images.mean(axis=(1, 2)),
            images.mean(axis=(1, 3)) @ along,
            images.mean(axis=(2, 3)) @ along,
            (centred.sum(axis=1) @ along) / weight,
            (centred.sum(axis=2) @ along) / weight,
        ]
    )
    fitted = LinearDiscriminantAnalysis().fit(statistics[:600], labels[:600])
    # Chance is 0.1, and 300 guesses have a standard deviation of 0.017.
    assert fitted.score(statistics[600:], labels[600:]) < 0.17


def test_fingerprint_names_every_argument() -> None:
    sources = [
        Shapes(10, 16, 0),
        Shapes(20, 16, 0),
        Shapes(10, 32, 0),
        Shapes(10, 16, 1),
        Shapes(10, 16, 0, "val"),
    ]
    prints = {source.fingerprint() for source in sources}
    assert len(prints) == 5
    assert Shapes(10, 16, 0).fingerprint() == Shapes(10, 16, 0).fingerprint()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="split"):
        Shapes(10, 16, 0, "holdout")
    with pytest.raises(UsageError, match="seed"):
        Shapes(10, 16, -1)
    with pytest.raises(IndexError):
        Shapes(10, 16, 0).load(10)
