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
from co2ssl.evaluate.options import SvmOptions
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
    assert result["difficult"] == "left-out"
    kept = json.loads((tmp_path / "out" / "evaluation" / "svm-pcl-image-size-8.json").read_text())
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


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, ""),
        ({"pipeline": "goyal"}, "goyal"),
        ({"difficult": "negative"}, "negative"),
        ({"difficult": "negative-in-training", "seed": 3}, "negative-in-training-seed-3"),
        ({"year": "2012", "layer": "res4"}, "2012-res4"),
        # Which of the two was changed can be told.
        ({"train_split": "val"}, "val-test"),
        ({"train_split": "train", "test_split": "val"}, "train-val"),
        ({"test_split": "val"}, "trainval-val"),
        ({"pipeline": "pcl", "train_split": "train", "difficult": "negative"}, "pcl-train-test-negative"),
    ],
)
def test_the_name_says_whatever_changes_the_number(changed: dict[str, Any], name: str) -> None:
    for voc in ("VOCdevkit", Path("VOCdevkit")):
        assert SvmOptions.model_validate({"voc": voc, **changed}).result_name == name


def test_measurements_that_differ_keep_a_file_each(devkit: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"image_size": 8, "workers": 0, "jobs": 1, "quiet": True, "pipeline": "pcl"}
    kept = tmp_path / "out" / "evaluation"
    differences: list[dict[str, Any]] = [{}, {"difficult": "negative"}, {"train_split": "train"}]
    # The folder is given as a path, not as text.
    results = [
        evaluate("svm", nn.Flatten(), devkit, out=str(tmp_path / "out"), **how, **changed) for changed in differences
    ]
    names = [f"svm-pcl{changed}-image-size-8.json" for changed in ("", "-negative", "-train-test")]
    assert sorted(path.name for path in kept.glob("*.json")) == sorted(names)
    for name, result in zip(names, results, strict=True):
        assert json.loads((kept / name).read_text()) == json.loads(json.dumps(result))
        settings = result["settings"]
        assert isinstance(settings, dict)
        assert settings["voc"] == str(devkit)


def test_what_is_not_in_the_mean_or_has_a_cost_of_others_is_said(tmp_path: Path) -> None:
    images: dict[str, Shown] = {
        f"{number:06}": [(name, False) for place, name in enumerate(("person", "dog")) if number >> place & 1]
        for number in range(16)
    }
    # The cat is in no test image; the bus in one training image, which is too few to choose a cost.
    for name, numbers in {"cat": (3,), "bus": (4, 13), "car": (1, 2, 12)}.items():
        for number in numbers:
            images[f"{number:06}"] = [*images[f"{number:06}"], (name, False)]
    names = list(images)
    devkit = write_voc(tmp_path / "voc", images, {"trainval": names[:10], "train": names[:5], "test": names[10:]})
    measured, *notes = in_words(measure(devkit)).splitlines()
    assert measured.startswith("svm: mAP ")
    assert measured.endswith("of 6 images, 4 classes")
    left_out, borrowed = notes
    assert left_out.startswith("  left out, as no image of ")
    without = left_out.rsplit(": ", 1)[1].split(", ")
    assert "cat" in without
    assert not {"person", "dog", "car", "bus"} & set(without)
    assert borrowed == "  too few images to choose a cost, that of the others taken: bus"
    # A fixed cost is borrowed from nobody.
    assert len(in_words(measure(devkit, pipeline="pcl")).splitlines()) == 2
