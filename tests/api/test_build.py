from __future__ import annotations

import pytest

from co2ssl.api.build import build_objective, evaluation_resize
from co2ssl.config import load_recipe


def test_alpha_rises_over_its_first_epochs_and_is_whole_at_once_as_published() -> None:
    ramped = load_recipe("moco+co2", overrides={"consistency_ramp_epochs": 2}).recipe
    weights = [build_objective(ramped, steps_per_epoch=5)(step).consistency_weight for step in (0, 1, 5, 10, 11)]
    assert weights == pytest.approx([0.0, 1.0, 5.0, 10.0, 10.0])
    published = build_objective(load_recipe("moco+co2").recipe, steps_per_epoch=5)
    assert published(0).consistency_weight == 10.0


@pytest.mark.parametrize(("image_size", "resize"), [(224, 256), (96, 110), (64, 64), (32, 32)])
def test_large_images_keep_the_papers_margin_and_small_ones_are_used_whole(image_size: int, resize: int) -> None:
    assert evaluation_resize(image_size) == resize
