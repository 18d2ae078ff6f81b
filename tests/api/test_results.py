"""What is kept of measurements: which are taken for another's, and that none is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from co2ssl.api.backbones import Representation, representation
from co2ssl.api.labels import label_list
from co2ssl.api.paper import measured_otherwise, paper_beside
from co2ssl.api.protocols import by_main, labelled_pair, result_name, result_path, saved_for
from co2ssl.api.results import kept_result, result_key, set_aside, write_result
from co2ssl.config.messages import validated
from co2ssl.data.sources import ArraySource, open_source
from co2ssl.distributed import is_main
from co2ssl.evaluate.base_options import PairOptions
from co2ssl.evaluate.features import EvaluationError
from co2ssl.evaluate.options import FinetuneOptions, KnnOptions, LinearOptions, SupervisedOptions
from tests.images import write_classes
from tests.processes import ProcessPair


def images(num: int, classes: int = 2) -> ArraySource:
    names = tuple(f"n{number:08}" for number in range(classes))
    return ArraySource("images", np.zeros((num, 8, 8, 3), dtype=np.uint8), np.arange(num) % classes, names)


def of(home: Path, **changed: Any) -> Representation:
    given = {"name": "Net", "backbone": nn.Flatten(), "image_size": 224, "resize": 256, "home": home, **changed}
    return Representation(**given)


def test_a_name_says_whatever_is_not_the_usual() -> None:
    pair = {"train": "a", "val": "b"}
    for protocol, model, given, name in (
        ("knn", KnnOptions, {}, "knn"),
        ("knn", KnnOptions, {"image_size": 64, "precision": "bf16", "neighbours": 5}, "knn-k-5-image-size-64-bf16"),
        ("knn", KnnOptions, {"feature_dtype": "float16"}, "knn-float16"),
        ("linear", LinearOptions, {"batch_size": 8}, "linear-batch-size-8"),
        ("finetune", FinetuneOptions, {"seed": 1}, "finetune-1percent-seed-1"),
        # Three of a share are the usual number, and so is one of all the labels.
        ("finetune", FinetuneOptions, {"draws": 3}, "finetune-1percent"),
        ("finetune", FinetuneOptions, {"draws": 1}, "finetune-1percent-draws-1"),
        ("finetune", FinetuneOptions, {"label_list": "draw"}, "finetune-1percent-draw"),
        ("supervised", SupervisedOptions, {"draws": 1}, "supervised"),
        ("supervised", SupervisedOptions, {"draws": 3, "batch_size": 64}, "supervised-batch-size-64-draws-3"),
    ):
        assert result_name(protocol, validated(model, {**pair, **given})) == name


def test_another_measurement_of_the_same_name_sets_the_first_aside(tmp_path: Path) -> None:
    path = tmp_path / "supervised-lr-0.1.json"
    weights = path.with_suffix(".safetensors")
    first = {"key": "1" * 16, "top1": 0.1, "trained": str(weights)}
    for number, kept in enumerate((first, {"key": "2" * 16, "top1": 0.2, "trained": str(weights)})):
        set_aside(path, str(kept["key"]))
        weights.write_bytes(bytes([number]))
        path.with_suffix(".seed-0.txt").write_text(str(number))
        write_result(path, kept)
    (tmp_path / "supervised-lr-0.json").write_text("{}")
    set_aside(path, "2" * 16)
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(
        [f"supervised-lr-0.1{own}{ending}" for own in ("", "." + "1" * 16) for ending in (".json", ".safetensors")]
        + ["supervised-lr-0.1.seed-0.txt", f"supervised-lr-0.1.{'1' * 16}.seed-0.txt", "supervised-lr-0.json"]
    )
    aside = json.loads((tmp_path / f"supervised-lr-0.1.{'1' * 16}.json").read_text())
    assert aside["top1"] == 0.1
    assert Path(aside["trained"]).read_bytes() == b"\x00"
    assert weights.read_bytes() == b"\x01"


def test_one_that_was_set_aside_is_found_again(tmp_path: Path) -> None:
    shown = of(tmp_path)
    asked = [KnnOptions(train=images(num), val=images(4)) for num in (6, 8)]
    path = result_path(shown, "knn", asked[0])
    assert path == result_path(shown, "knn", asked[1])
    for number, options in enumerate(asked):
        key = result_key("knn", shown, options)
        assert kept_result("knn", shown, options) is None
        set_aside(path, key)
        write_result(path, {"key": key, "top1": number})
    for number, options in enumerate(asked):
        found = kept_result("knn", shown, options)
        assert found is not None
        assert found["top1"] == number


def test_a_training_goes_on_only_with_the_same_pixels_and_labels(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", each=40)
    shutil.copytree(tmp_path / "images", tmp_path / "as they were")
    options = LinearOptions(train="x", val="y")

    def saved(place: str) -> Any:
        source = open_source(str(tmp_path / place))
        found = saved_for(of(tmp_path / "home"), "linear", options, source, source, "key")
        assert found is not None
        return found

    saved("images").save({"step": 3})
    assert saved("images").load()["step"] == saved("as they were").load()["step"] == 3
    # One of eighty images, which no sample of pixels need hold.
    changed = tmp_path / "images" / "class-0" / "001.png"
    shutil.copy(tmp_path / "images" / "class-1" / "031.png", changed)
    assert saved("images").load() is None
    assert saved("as they were").load()["step"] == 3


def test_the_same_names_are_not_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, classes in (("train", ("a", "b")), ("val", ("b", "a"))):
        for number, name in enumerate(classes):
            write_classes(tmp_path / "made", classes=2, each=3)
            shutil.copytree(tmp_path / "made" / f"class-{number}", tmp_path / part / name)
    train, val = (open_source(str(tmp_path / part)) for part in ("train", "val"))
    assert train.fingerprint() == val.fingerprint()
    labelled_pair(PairOptions(train=train, val=val))
    assert "are the same images" not in capsys.readouterr().err
    shutil.copytree(tmp_path / "train", tmp_path / "copy")
    labelled_pair(PairOptions(train=train, val=open_source(str(tmp_path / "copy"))))
    assert "are the same images" in capsys.readouterr().err


def test_few_images_are_batches_that_the_processes_divide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few, many = (FinetuneOptions(train=images(num), val=images(4), labels="10%") for num in (950, 5000))
    asked = FinetuneOptions(train=images(950), val=images(4), labels="10%", batch_size=8)

    def keys() -> list[str]:
        return [result_key("finetune", of(tmp_path), options) for options in (few, many, asked)]

    alone = keys()
    monkeypatch.setattr("co2ssl.api.results.world_size", lambda: 2)
    monkeypatch.setattr("co2ssl.evaluate.label_draws.world_size", lambda: 2)
    # Of 95 images two processes take 94 in a step.
    assert [one == other for one, other in zip(alone, keys(), strict=True)] == [False, True, True]


def test_imagenet_has_the_published_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("co2ssl.api.labels.fetched_list", lambda share: Path(f"fetched {share}"))
    imagenet, other = images(1000, 1000), images(10)
    assert label_list(imagenet, None, "10%") == label_list(other, "simclr", "10%") == Path("fetched 10%")
    # Any other share or data has none; and a draw can be asked for.
    assert label_list(imagenet, None, "5%") is label_list(other, None, "10%") is None
    assert label_list(imagenet, None, None) is label_list(imagenet, "draw", "1%") is None
    assert label_list(other, "list.txt", None) == Path("list.txt")
    (tmp_path / "10percent.txt.gz").touch()
    assert label_list(imagenet, tmp_path, "10%") == tmp_path / "10percent.txt.gz"


def test_what_was_measured_otherwise_than_the_paper_is_said(tmp_path: Path) -> None:
    finetuned: dict[str, Any] = {"protocol": "finetune", "draws": [{}] * 3, "note": None}
    assert measured_otherwise(of(tmp_path), finetuned, batch_size=256) == []
    words = measured_otherwise(of(tmp_path, image_size=64), {**finetuned, "draws": [{}], "note": "few"}, batch_size=8)
    assert words == [
        "few",
        "at 224 pixels; here at 64",
        "in batches of 256; here of 8",
        "a mean of 3 trainings; here of 1",
    ]
    # No batch size is published for what has no batches.
    assert measured_otherwise(of(tmp_path), {"protocol": "svm"}, batch_size=8) == []
    shown = of(tmp_path, name="torchvision:resnet50", found="all")
    beside = paper_beside("linear", shown, data="ImageNet", weights="IMAGENET1K_V2", departures=["so"])
    assert beside is not None
    assert beside["words"] == [
        "so",
        "by the recipe of its time; here the weights IMAGENET1K_V2",
        "of a ResNet-50; here it is another network",
    ]


def test_fresh_weights_of_torchvision_are_kept_beside_the_trained(tmp_path: Path) -> None:
    shown = representation("untrained:torchvision:resnet18", out=tmp_path)
    assert result_path(shown, "knn", KnnOptions(train="a", val="b")) == tmp_path / "evaluation/untrained/knn.json"
    assert paper_beside("linear", shown, data="ImageNet") is None


def _fails() -> dict[str, object]:
    if is_main():
        raise EvaluationError("no class of two images")
    raise AssertionError("only the main process computes")


def compute_together() -> str:
    try:
        by_main(_fails)
    except EvaluationError as error:
        return str(error)
    return "nothing was raised"


def test_what_the_main_process_cannot_compute_is_an_error_of_all(two_processes: ProcessPair) -> None:
    assert two_processes(compute_together) == ["no class of two images"] * 2
