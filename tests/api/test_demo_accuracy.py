"""The demo teaches something: far above raw pixels and the untrained encoder. Three minutes a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from co2ssl.api import demo


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_trained_encoder_is_far_above_pixels_and_its_own_start(seed: int, tmp_path: Path) -> None:
    by_knn = {name: accuracy for name, accuracy, _ in demo(tmp_path / "demo", seed=seed, quiet=True).rows}
    assert by_knn["raw pixels"] <= 0.40
    assert by_knn["untrained encoder"] <= 0.40
    assert by_knn["MoCo v2"] >= 0.60
    assert by_knn["MoCo v2"] >= max(by_knn["raw pixels"], by_knn["untrained encoder"]) + 0.25
