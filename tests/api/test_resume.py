"""A run that was stopped and resumed is the same run, to the bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import co2ssl
from co2ssl.api import pretraining
from co2ssl.errors import UsageError
from co2ssl.train.lock import LOCK, only_trainer
from co2ssl.train.stop import Interrupted
from tests.images import TINY, write_classes


def last_checkpoint(folder: Path) -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(max((folder / "checkpoints").iterdir()), weights_only=True)
    return contents


def same(left: object, right: object, where: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert left.keys() == right.keys(), where
        for key in left:
            same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        assert isinstance(right, list)
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            same(a, b, f"{where}/{number}")
    else:
        assert left == right, where


@pytest.mark.parametrize(
    ("recipe", "views"),
    [
        ("moco-small-32+co2", {}),
        ("moco-v2-small-32", {}),
        ("simclr-small-32+co2", {}),
        ("moco-v2-small-32+co2", {"views": "moco-v2", "views_on": "device", "workers": 1}),
    ],
)
def test_two_epochs_equal_one_and_a_resume(
    recipe: str, views: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "images")
    settings: dict[str, Any] = {**TINY, "probe_every": 1, **views}
    if recipe.startswith("simclr"):
        settings = {name: settings[name] for name in settings if name not in ("queue_size", "batch_norm_groups")}
        settings["warmup_epochs"] = 1
    whole = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "whole", recipe=recipe, quiet=True, **settings)

    def stopping(*_: object, **__: object) -> Any:
        def probe(step: int, encoder: nn.Module) -> dict[str, float]:
            del step, encoder
            os.kill(os.getpid(), signal.SIGINT)
            return {}

        return probe

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "spread_probe", stopping)
        with pytest.raises(Interrupted, match="--resume"):
            co2ssl.pretrain(tmp_path / "images", out=tmp_path / "parts", recipe=recipe, quiet=True, **settings)
    stopped = last_checkpoint(tmp_path / "parts")
    assert 0 < stopped["position"]["step"] < last_checkpoint(whole.folder)["position"]["step"]

    resumed = co2ssl.pretrain(resume=tmp_path / "parts", quiet=True)
    first, second = last_checkpoint(whole.folder), last_checkpoint(resumed.folder)
    for part in ("method", "optimizer", "position", "random"):
        same(first[part], second[part], part)
    assert (whole.folder / "backbone.safetensors").read_bytes() == (
        resumed.folder / "backbone.safetensors"
    ).read_bytes()


def test_a_resume_on_other_images_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "images")
    run = co2ssl.pretrain(
        tmp_path / "images", out=tmp_path / "run", recipe="moco-small-32", quiet=True, **{**TINY, "epochs": 1}
    )
    (tmp_path / "images" / "class-0" / "000.png").unlink()
    # Where all is there already, nothing is trained on them.
    assert co2ssl.pretrain(resume=run.folder, quiet=True).folder == run.folder
    (run.folder / "backbone.safetensors").unlink()
    with pytest.raises(UsageError, match="no longer holds"):
        co2ssl.pretrain(resume=run.folder, quiet=True)


def test_a_second_process_is_kept_out_of_a_run_that_is_being_trained(tmp_path: Path) -> None:
    write_classes(tmp_path / "images")
    run = co2ssl.pretrain(
        tmp_path / "images", out=tmp_path / "run", recipe="moco-small-32", quiet=True, **{**TINY, "epochs": 1}
    )
    assert not (run.folder / LOCK).exists()
    (run.folder / "backbone.safetensors").unlink()
    # As it is while the first process writes its next checkpoint.
    partial = run.folder / "checkpoints" / "step-000006.ckpt.partial"
    partial.touch()
    written = (run.folder / "metrics.jsonl").read_bytes()
    with only_trainer(run.folder):
        for _ in range(2):
            with pytest.raises(UsageError, match=rf"run is being trained by process {os.getpid()} on host \S+: wait"):
                co2ssl.pretrain(resume=run.folder, quiet=True)
    assert partial.exists()
    assert (run.folder / "metrics.jsonl").read_bytes() == written
    co2ssl.pretrain(resume=run.folder, quiet=True)
    assert (run.folder / "backbone.safetensors").is_file()
    assert not (run.folder / LOCK).exists()


def test_a_new_run_is_locked_while_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "images")
    refused: list[str] = []

    def intruding(*_: object, **__: object) -> Any:
        def probe(step: int, encoder: nn.Module) -> dict[str, float]:
            with pytest.raises(UsageError, match="is being trained by") as caught:
                co2ssl.pretrain(resume=tmp_path / "run", quiet=True)
            refused.append(str(caught.value))
            return {}

        return probe

    monkeypatch.setattr(pretraining, "spread_probe", intruding)
    settings: dict[str, Any] = {**TINY, "epochs": 1, "probe_every": 1}
    co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", recipe="moco-small-32", quiet=True, **settings)
    assert len(refused) == 1


def test_load_encoder_gives_the_weights_with_torchvision_names(tmp_path: Path) -> None:
    write_classes(tmp_path / "images")
    settings: dict[str, Any] = {**TINY, "epochs": 1, "width": 1.0, "stem": "imagenet"}
    run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", recipe="moco-small-32", quiet=True, **settings)
    backbone = co2ssl.load_encoder(run.folder)
    assert not backbone.training
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet18()
    missing, unexpected = network.load_state_dict(backbone.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert unexpected == []
    network.fc = nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.eval()(images), backbone(images))
