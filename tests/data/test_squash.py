from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from co2ssl.data import pixels
from co2ssl.data.loader import evaluation_batches
from co2ssl.data.sources.protocol import Source
from co2ssl.data.squash import Squashed
from tests.evaluate.fakes import Images


class Tall(Images):
    """Images of 60 by 40."""

    def load(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 255, (60, 40, 3), dtype=np.uint8)


def test_two_resizes_as_torchvision_does_them() -> None:
    source = Squashed(Tall([0, 1], ("a", "b")), 32, 28)
    theirs = transforms.Compose([transforms.Resize(32), transforms.Resize((28, 28))])(
        Image.fromarray(source.source.load(1))
    )
    ours = source.load(1)
    assert ours.shape == (28, 28, 3)
    apart = np.abs(ours.astype(int) - np.asarray(theirs).astype(int))
    # Each resize rounds by itself: a level apart after one, two after both, and hardly ever.
    assert apart.max() <= 2
    assert apart.mean() < 0.3


@pytest.mark.parametrize("turned", [False, True])
def test_a_strip_does_not_grow_in_between(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strip(Images):
        """One pixel by 20,000: dark, with a bright fifth in the middle."""

        def load(self, index: int) -> np.ndarray:
            strip = np.zeros((1, 20_000, 3), dtype=np.uint8)
            strip[:, 8_000:12_000] = 200
            return strip.transpose(1, 0, 2) if turned else strip

    sizes: list[tuple[int, int]] = []
    resize = pixels.resize

    def measured(image: np.ndarray, height: int, width: int) -> np.ndarray:
        sizes.append((height, width))
        return resize(image, height, width)

    monkeypatch.setattr(pixels, "resize", measured)
    squashed = Squashed(Strip([0], ("a",)), 32, 30).load(0)
    assert sizes == [(512, 32) if turned else (32, 512), (30, 30)]
    across = (squashed.transpose(1, 0, 2) if turned else squashed)[15, :, 0]
    # Nothing is cut away: the fifth in the middle is six of thirty.
    assert (across > 100).sum() == 6
    assert (across[13:17] == 200).all()


def test_nothing_is_cut_away_by_the_loader() -> None:
    source = Squashed(Tall([0, 1], ("a", "b")), 32, 28)
    images, _, _ = next(evaluation_batches(source, image_size=28, resize=28, batch_size=2, workers=0))
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), source.load(1))


def test_everything_else_is_the_sources() -> None:
    inner = Tall([0, 1], ("a", "b"), name="inner")
    source: Source = Squashed(inner, 32, 28)
    assert (source.name, source.classes, len(source), source.describe(1)) == ("inner", ("a", "b"), 2, "inner/1.png")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1]


@pytest.mark.parametrize("other", [(40, 28), (32, 24)])
def test_features_of_another_size_are_other_features(other: tuple[int, int]) -> None:
    inner = Tall([0, 1], ("a", "b"), name="inner")
    prints = {inner.fingerprint(), Squashed(inner, 32, 28).fingerprint(), Squashed(inner, *other).fingerprint()}
    assert len(prints) == 3
