from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from co2ssl.api.diagnosis.judgement import (
    advice,
    binding,
    cache_bytes,
    findings,
    in_bytes,
    milliseconds,
    predict,
    problem,
)
from co2ssl.api.diagnosis.result import Measured, Setting
from co2ssl.data.inspection import Balance, Inspection, Sizes
from tests.api.diagnosis.cases import CARD, SETTING, inspection, pace, setting, together

FAST = Measured(disk=pace(50_000), decode=pace(10_000), augment=pace(10_000), step=pace(20_000), together=together())
BIG = inspection(images=10**6, looked_at=500)
"""A million files of 50 kB: 50 GB, more than memory."""


def test_milliseconds_are_of_the_whole_machine() -> None:
    measured = Measured(disk=pace(500), decode=pace(100), augment=pace(50), step=pace(200))
    assert milliseconds(measured, SETTING) == pytest.approx({"disk": 2.0, "decode": 2.5, "augment": 5.0, "step": 5.0})
    # More workers than cores make no more; none are the main process.
    assert milliseconds(measured, replace(SETTING, workers=16))["decode"] == pytest.approx(2.5)
    assert milliseconds(measured, replace(SETTING, workers=0))["decode"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("part", "rate", "found", "of"),
    [
        ("step", 100, inspection(), SETTING),
        ("decode", 100, inspection(), SETTING),
        ("augment", 100, inspection(), SETTING),
        ("copy", 100, inspection(), CARD),
        ("disk", 100, BIG, SETTING),
    ],
)
def test_the_slow_part_binds(part: str, rate: float, found: Inspection, of: Setting) -> None:
    slow: dict[str, Any] = {part: pace(rate)}
    measured = replace(FAST, **slow)
    assert binding(measured, found, of) == part
    assert advice(part, found, measured, of)


def test_many_workers_make_up_for_slow_views() -> None:
    measured = Measured(decode=pace(300), augment=pace(100), step=pace(200))
    assert binding(measured, inspection(), SETTING) == "step"
    assert binding(measured, inspection(), replace(SETTING, workers=1)) == "augment"


def test_a_slow_disk_is_a_matter_of_the_first_epoch_where_files_fit_in_memory() -> None:
    measured = replace(FAST, disk=pace(50))
    assert binding(measured, inspection(), SETTING) == "step"
    (said,) = findings(inspection(), measured, SETTING)
    assert "the first epoch waits for the disk (50 images/s)" in said
    assert findings(inspection(), FAST, SETTING) == ()


def test_the_prediction_is_the_loop_measured_or_the_disk() -> None:
    found = predict(replace(FAST, together=together(12.0)), inspection(), SETTING)
    assert found is not None
    assert found.epoch_seconds == 12.0
    assert found.seconds == 12.0 * SETTING.recipe.epochs
    assert (found.host_bytes, found.device_bytes) == (10**9, None)
    # 50 GB do not stay in 16 GB of memory: each epoch reads a million files at 2,000 a second.
    slow = predict(replace(FAST, disk=pace(2000), together=together(12.0)), BIG, SETTING)
    assert slow is not None
    assert slow.epoch_seconds == pytest.approx(500.0)
    assert predict(replace(FAST, together=None), inspection(), SETTING) is None


def test_what_is_said_of_the_images() -> None:
    pair = (("x", "y"),)
    sizes = Sizes(median=(40, 40), smallest=(9, 9), largest=(50, 50), mean_pixels=1600.0, short_side_tenth=20)
    balance = Balance(classes=5, empty=2, smallest=("owls", 3), largest=("hens", 30))
    odd = inspection(bad=pair, exact_copies=pair, near_copies=pair, sizes=sizes, balance=balance)
    said = "\n".join(findings(odd, FAST, SETTING))
    for words in (
        "bad_images.csv",
        "the same pixels",
        "near copies",
        "20 of 32 px",
        "the class hens has 30 images and owls has 3",
        "2 of the 5 classes",
    ):
        assert words in said
    assert findings(inspection(), FAST, SETTING) == ()


def test_too_many_bad_images_are_a_problem() -> None:
    bad = inspection(bad=tuple((str(number), "empty") for number in range(50)))
    text = problem(bad, SETTING)
    assert text is not None
    assert "10.0 %" in text
    assert "--max-bad-share" in text
    assert problem(bad, setting(options={"max_bad_share": 0.1})) is None
    assert problem(inspection(), replace(SETTING, refused="too few")) == "too few"


def said(binds: str, of: Setting = SETTING, *, found: Inspection | None = None, measured: Measured = FAST) -> str:
    return "\n".join(advice(binds, found or inspection(), measured, of))


def test_advice_for_views() -> None:
    for part in ("disk", "decode"):
        assert "--cache: every image is decoded once, into about 600 MB" in said(part)
        assert "--cache" not in said(part, setting(options={"cache": True}))
        assert "smaller copies of the images: the shorter side is 400 px, that of a view 32 px" in said(part)
    assert "more than memory holds" in said("decode", found=BIG)
    assert "faster disk" in said("disk")
    assert "--image-size" in said("augment")
    assert "--cache" not in said("augment")
    assert "--workers" not in said("decode")
    assert "--views-on device" in said("augment", CARD)
    assert "--views-on" not in said("augment", setting(CARD, options={"views_on": "device"}))
    assert "--views-on" not in said("augment")
    assert "--workers 4: there are 4 cores, and 1 make views" in said("augment", replace(SETTING, workers=1))


def test_advice_for_training() -> None:
    assert "--precision bf16" not in said("step")
    assert "--device cuda" in said("step")
    assert "--precision bf16" in said("step", CARD)
    assert "--views-on" not in said("step", CARD)
    assert "--views-on worker" in said("step", setting(CARD, options={"views_on": "device"}))
    assert "--precision bf16" not in said("step", setting(CARD, options={"precision": "bf16"}))
    assert "--image-size than 224" in said("step", setting(image_size=224))
    assert "--arch than resnet50" in said("step", setting(arch="resnet50"))
    roomy, tight = (replace(FAST, together=together(device_bytes=share * 8 * 10**9)) for share in (1, 10))
    assert "a larger --batch-size" in said("step", CARD, measured=roomy)
    assert "a smaller --batch-size" in said("step", CARD, measured=tight)
    assert "fewer --workers" in said("step", measured=replace(FAST, together=together(host_bytes=15 * 10**9)))
    small = setting(CARD, options={"precision": "bf16"}, arch="resnet18", image_size=32)
    assert "nothing cheap" in said("step", small, measured=replace(FAST, together=together(device_bytes=5 * 10**10)))


def test_a_cache_that_does_not_fit_in_memory_is_said() -> None:
    cached = setting(options={"cache": True})
    (text,) = findings(BIG, replace(FAST, disk=None), cached)
    assert "600 GB does not fit in memory" in text
    assert cache_bytes(inspection(sizes=None)) == 0


def test_bytes_in_words() -> None:
    assert [in_bytes(count) for count in (0, 999, 1500, 123_456, 3.2e9, 5e13)] == [
        "0 bytes", "999 bytes", "1.5 kB", "123 kB", "3.2 GB", "50.0 TB",
    ]  # fmt: skip
