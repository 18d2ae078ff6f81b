"""``evaluate svm``, from a VOC folder to the JSON in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from co2ssl.api import evaluate
from co2ssl.api.evaluation import in_words
from co2ssl.cli import main
from tests.voc import Shown, write_voc


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    images: dict[str, Shown] = {
        f"{number:06}": [(name, False) for place, name in enumerate(("person", "dog", "car")) if number >> place & 1]
        for number in range(32)
    }
    names = list(images)
    return write_voc(tmp_path / "voc", images, {"trainval": names[:20], "train": names[:10], "test": names[20:]})


def measure(devkit: Path, **changed: Any) -> dict[str, Any]:
    return evaluate(
        "svm", nn.Flatten(), str(devkit), **{"image_size": 8, "workers": 0, "jobs": 1, "quiet": True, **changed}
    )


def test_a_module_is_measured_and_the_result_is_kept(devkit: Path, tmp_path: Path) -> None:
    result = measure(devkit, out=str(tmp_path / "out"), pipeline="pcl")
    assert result["map_area"] > 0.9
    assert set(result["classes"]) == {"person", "dog", "car"}
    assert result["settings"]["train_split"] == "trainval"
    kept = json.loads((tmp_path / "out" / "evaluation" / "svm-pcl.json").read_text())
    assert kept == json.loads(json.dumps(result))
    assert len(list((tmp_path / "out" / "features").glob("*.npy"))) == 2


def test_a_backbone_with_weights_is_left_as_it_was(devkit: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate("svm", net, str(devkit), image_size=8, workers=0, jobs=1, quiet=True, pipeline="pcl")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_bad_input(devkit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([f"voc:{tmp_path}/nowhere"], "no such folder"),
        ([f"voc:{devkit}", "--year", "2012"], "it has the year 2007"),
        ([f"voc:{devkit}", "--test-split", "tset"], "did you mean test?"),
        ([f"voc:{devkit}", "--test-split", "train"], "are in"),
    ):
        assert main(["evaluate", "svm", "untrained:torchvision:resnet18", *words, "--image-size", "32", "--quiet"]) == 1
        assert message in capsys.readouterr().err


def test_measurements_that_differ_keep_a_file_each(devkit: Path, tmp_path: Path) -> None:
    measure(devkit, out=str(tmp_path / "out"), pipeline="pcl")
    evaluate(
        "svm",
        nn.Flatten(),
        devkit,
        image_size=8,
        workers=0,
        jobs=1,
        quiet=True,
        out=str(tmp_path / "out"),
        pipeline="pcl",
        train_split="train",
        difficult="negative",
    )
    found = {path.name for path in (tmp_path / "out" / "evaluation").glob("*.json")}
    assert found == {"svm-pcl.json", "svm-pcl-train-negative.json"}


def test_what_is_not_in_the_mean_is_said(tmp_path: Path) -> None:
    images: dict[str, Shown] = {
        f"{number:06}": [(name, False) for place, name in enumerate(("person", "dog")) if number >> place & 1]
        for number in range(16)
    }
    images["000003"] = [*images["000003"], ("cat", False)]
    images["000001"] = [*images["000001"], ("car", False)]
    images["000002"] = [*images["000002"], ("car", False)]
    images["000012"] = [*images["000012"], ("car", False)]
    names = list(images)
    devkit = write_voc(tmp_path / "voc", images, {"trainval": names[:10], "train": names[:5], "test": names[10:]})
    said = in_words(measure(devkit))
    assert "left out, as no image of" in said
    assert "cat" in said.splitlines()[1]
