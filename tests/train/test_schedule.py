"""Learning rates at the values that the papers and their code give."""

from __future__ import annotations

import math

import pytest

from co2ssl.errors import UsageError
from co2ssl.train.schedule import learning_rate_schedule


def test_moco_drops_at_120_and_160() -> None:
    rate = learning_rate_schedule("steps", lr=0.03, epochs=200, steps_per_epoch=5, drop_epochs=(120, 160))
    assert [rate(5 * epoch) for epoch in (0, 119, 120, 159, 160, 199)] == pytest.approx(
        [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003]
    )
    assert rate(5 * 120 - 1) == 0.03


def test_moco_v2_is_half_a_cosine_constant_within_each_epoch() -> None:
    rate = learning_rate_schedule("cosine-epoch", lr=0.03, epochs=200, steps_per_epoch=7)
    for epoch in (0, 1, 50, 100, 199):
        expected = 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
        assert [rate(7 * epoch + step) for step in range(7)] == pytest.approx([expected] * 7, rel=1e-14)
    assert rate(0) == 0.03
    assert rate(7 * 100) == pytest.approx(0.015)


def test_simclr_rises_for_ten_epochs_then_falls_with_every_step() -> None:
    rate = learning_rate_schedule("cosine-step", lr=4.8, epochs=100, steps_per_epoch=10, warmup_epochs=10)
    assert rate(0) == 0
    assert rate(1) == pytest.approx(0.048)
    assert rate(50) == pytest.approx(2.4)
    assert rate(100) == pytest.approx(4.8)
    assert rate(100 + 450) == pytest.approx(2.4)
    assert rate(999) == pytest.approx(4.8 * 0.5 * (1 + math.cos(math.pi * 899 / 900)))
    falling = [rate(step) for step in range(100, 1000)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == len(falling)


def test_warm_up_before_drops_keeps_their_epochs() -> None:
    """Rotation of google/revisiting-self-supervised: 5 epochs of warm-up, drops at 15 and 25 of 35."""
    rate = learning_rate_schedule(
        "steps", lr=0.1, epochs=35, steps_per_epoch=4, warmup_epochs=5, drop_epochs=(15, 25), drop_factor=0.1
    )
    assert [rate(step) for step in (0, 10, 20, 59, 60, 100)] == pytest.approx([0, 0.05, 0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cosine"}, "cosine-epoch, cosine-step, steps"),
        ({"epochs": 0}, "0 epochs"),
        ({"warmup_epochs": 11}, "warm-up of 11 epochs"),
        ({"name": "steps", "drop_factor": None}, "needs a drop_factor"),
    ],
)
def test_what_makes_no_schedule_is_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"name": "cosine-step", "lr": 1.0, "epochs": 10, "steps_per_epoch": 3, **changes}
    name = arguments.pop("name")
    with pytest.raises(UsageError, match=message):
        learning_rate_schedule(name, **arguments)  # type: ignore[arg-type]
