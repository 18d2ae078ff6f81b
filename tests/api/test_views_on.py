"""Where views are made, as an option of a run and of the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import co2ssl
from co2ssl.api.runs import read_run
from co2ssl.data import loader
from co2ssl.data.batch import IMAGENET_STD, Batch
from co2ssl.data.device_views import finished_views
from co2ssl.methods.method import Step
from co2ssl.methods.moco import MoCo
from tests.images import TINY, write_images

# With the whole of MoCo v2's operations: all that the device can do.
SETTINGS: dict[str, Any] = {**TINY, "recipe": "moco-v2-small-32+co2", "views": "moco-v2", "epochs": 1}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were in each batch that was finished on the device."""
    made: list[int] = []

    def counted(crops: tuple[Tensor, ...], **arguments: Any) -> tuple[Tensor, ...]:
        made.append(len(crops[0]))
        return finished_views(crops, **arguments)

    monkeypatch.setattr(loader, "finished_views", counted)
    return made


def test_a_method_gets_the_same_views_up_to_rounding(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = MoCo.forward

    def watched(self: MoCo, batch: Batch) -> Step:
        seen.append(torch.stack(batch.views))
        return forward(self, batch)

    monkeypatch.setattr(MoCo, "forward", watched)
    write_images(tmp_path / "images", 24, side=40)
    views: dict[str, Tensor] = {}
    for views_on in ("worker", "device"):
        run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / views_on, quiet=True, views_on=views_on, **SETTINGS)
        assert calls == ([8] * 3 if views_on == "device" else [])
        assert read_run(run.folder).config.options.views_on == views_on
        views[views_on] = torch.stack(seen)
        seen.clear()
    apart = (views["device"] - views["worker"]).abs()
    assert apart.max() > 0
    # Half a grey level of 255, as bounds the operations; views of other draws would be tens of levels apart.
    assert apart.mean() < 0.5 / max(IMAGENET_STD)
    assert (views["worker"][0] - views["worker"][1]).abs().mean() > 10 / max(IMAGENET_STD)


@pytest.mark.parametrize("views_on", ["worker", "device"])
def test_the_doctor_measures_what_is_asked_for(views_on: str, tmp_path: Path, calls: list[int]) -> None:
    write_images(tmp_path, 24)
    found = co2ssl.doctor(tmp_path, seconds=0.05, views_on=views_on, **SETTINGS)
    assert found.prediction is not None
    assert found.setting.options.views_on == views_on
    assert bool(calls) == (views_on == "device")
