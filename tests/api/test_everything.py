"""What ``evaluate all`` would measure, and what it makes of results: without measuring anything."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from co2ssl.api.all_plan import Plan, Task, make_plan
from co2ssl.api.all_table import table_in_words
from co2ssl.api.backbones import Representation
from co2ssl.api.everything import rows_of
from co2ssl.api.paper import data_called, paper_beside, voc_called
from co2ssl.config.messages import validated
from co2ssl.data.sources import ArraySource, DataError, Source
from co2ssl.data.sources.named import imagenet100_classes
from co2ssl.errors import UsageError
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.base_options import EvaluationOptions
from co2ssl.evaluate.label_subsets import LabelSubset
from tests.voc import write_voc


def images(num: int, name: str) -> ArraySource:
    pixels = np.random.default_rng(num).integers(0, 255, (num, 8, 8, 3), dtype=np.uint8)
    return ArraySource(name, pixels, np.arange(num) % 3, ("a", "b", "c"))


def of_a_module(name: str = "Net", **changed: Any) -> Representation:
    return Representation(name=name, backbone=nn.Linear(2, 2), image_size=8, resize=8, **changed)


def plan(num_train: int = 600, representation: Representation | None = None, **given: Any) -> Plan:
    options = validated(AllOptions, {"data": images(num_train, "train"), "val": images(30, "val"), **given})
    return make_plan(representation or of_a_module(), options)


def chosen(made: Plan, title: str) -> tuple[EvaluationOptions, ...]:
    return next(task.options for task in made.tasks if task.title == title)


@pytest.fixture
def devkit(tmp_path: Path) -> str:
    shown = {"000001": [("dog", False)], "000002": [("cat", False)]}
    write_voc(tmp_path, shown, {split: list(shown) for split in ("train", "trainval", "test")})
    return str(tmp_path / "VOCdevkit")


def test_everything_that_can_be_asked_for(devkit: str) -> None:
    made = plan(full=True, supervised=True, voc=devkit, voc_train="train", device="cpu", feature_dtype="float16")
    titles = ["knn", "linear --fast", "linear", "finetune 1%", "finetune 10%"]
    titles += ["supervised", "supervised 1%", "supervised 10%", "svm"]
    assert [task.title for task in made.tasks] == titles
    assert made.left_out == {}
    # As each protocol has it: the paper's three trainings with few labels, one with all of them.
    assert [chosen(made, title)[0].model_dump()["draws"] for title in titles[3:8]] == [None] * 5
    assert [chosen(made, title)[0].model_dump()["labels"] for title in titles[3:8]] == ["1%", "10%", None, "1%", "10%"]
    assert all(options.device == "cpu" for task in made.tasks for options in task.options)
    (svm,) = chosen(made, "svm")
    assert svm.feature_dtype == "float16"
    assert [svm.model_dump()[name] for name in ("voc", "train_split", "test_split")] == [devkit, "train", "test"]
    # What features have no part in is not told of them.
    assert {options.feature_dtype for options in chosen(made, "finetune 1%")} == {"float32"}
    assert [task.title for task in made.tasks if not task.random] == ["knn"]


def test_what_comes_last_is_looked_for_first(devkit: str) -> None:
    with pytest.raises(DataError, match="no such folder: VOC"):
        plan(voc="VOC")
    with pytest.raises(DataError, match="did you mean test"):
        plan(voc=devkit, voc_test="tset")


def test_seeds_are_measurements_or_draws(devkit: str) -> None:
    made = plan(full=True, supervised=True, voc=devkit, seeds=2, seed=5)
    for title in ("linear --fast", "linear", "svm"):
        assert [options.model_dump()["seed"] for options in chosen(made, title)] == [5, 6]
    assert len(chosen(made, "knn")) == 1
    for title in ("finetune 10%", "supervised", "supervised 10%"):
        (options,) = chosen(made, title)
        assert (options.model_dump()["draws"], options.model_dump()["seed"]) == (2, 5)


def test_batches_that_the_images_fill() -> None:
    made = plan(full=True, supervised=True, batch_size=40)
    sizes = {task.title: options.model_dump().get("batch_size") for task in made.tasks for options in task.options}
    expected = {"linear": 40, "finetune 1%": 6, "finetune 10%": 40, "supervised": 40, "supervised 1%": 6}
    assert expected.items() <= sizes.items()
    few = plan(200, full=True)
    assert "finetune 1%" in few.left_out
    assert [task.title for task in few.tasks] == ["knn", "linear --fast", "linear", "finetune 10%"]
    # All of the images, as the protocol by itself has it.
    assert chosen(few, "linear")[0].model_dump()["batch_size"] is None
    asked = plan(200, full=True, batch_size=256)
    assert asked.left_out["linear"] == "200 images are fewer than a batch of 256"


def test_published_lists_are_for_every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, str]] = []

    def listed(source: Source, path: Path, share: str) -> LabelSubset:
        asked.append((path, share))
        return LabelSubset(places=np.arange(9), origin="a list")

    monkeypatch.setattr("co2ssl.api.labels.fetched_list", lambda share: Path(f"list of {share}"))
    monkeypatch.setattr("co2ssl.api.all_plan.listed_subset", listed)
    # 200 images are too few for a draw of 1 %, which a list does not need.
    made = plan(200, label_list="simclr", batch_size=64)
    assert asked == [(Path(f"list of {share}"), share) for share in ("1%", "10%")]
    for share in ("1%", "10%"):
        given = chosen(made, f"finetune {share}")[0].model_dump()
        assert (given["label_list"], given["batch_size"]) == ("simclr", 9)
    assert "which images have labels" not in made.tasks[-1].random


def test_a_list_for_one_share_is_not_for_all(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x.jpg\n")
    options = validated(AllOptions, {"data": "x", "label_list": str(tmp_path / "list.txt")})
    with pytest.raises(UsageError, match="nor a folder"):
        options.check()
    for fine in ("simclr", "draw", str(tmp_path)):
        validated(AllOptions, {"data": "x", "label_list": fine}).check()
    with pytest.raises(DataError, match=r"has no 1percent.txt, nor 1percent.txt.gz"):
        plan(label_list=str(tmp_path))


@pytest.mark.parametrize(("recipe", "decay"), [("moco+co2", 5e-4), ("moco-v2", 1e-4), ("moco-v2-small-64+co2", 1e-4)])
def test_weight_decay_is_the_methods(recipe: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        class config:  # noqa: N801
            class resolved:  # noqa: N801
                name = recipe

    monkeypatch.setattr("co2ssl.api.all_plan.run_of", lambda _: Run)
    made = plan()
    assert chosen(made, "finetune 10%")[0].model_dump()["weight_decay"] == decay


def test_rows_are_means_and_sample_deviations() -> None:
    task = Task(title="linear", protocol="linear", options=(), random="crops", table="linear")
    results = [
        {"seconds": 1.0, "top1": 0.0, "classifiers": [{"lr": lr, "top1": top1, "top5": 1.0} for lr, top1 in pairs]}
        for pairs in (((30.0, 0.5), (15.0, 0.6)), ((30.0, 0.7), (15.0, 0.9)))
    ]
    rows = rows_of(task, results)
    assert [row["name"] for row in rows] == ["linear, lr 30", "linear, lr 15"]
    assert [row["top1"] for row in rows] == pytest.approx([0.6, 0.75])
    assert rows[0]["top1_std"] == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert (rows[0]["num_seeds"], rows[0]["seconds"], rows[0]["top5_std"]) == (2, 2.0, 0.0)
    drawn = {"seconds": 1.0, "top1": 0.5, "top1_std": 0.1, "top5": 1.0, "top5_std": 0.0, "draws": [{}, {}, {}]}
    (row,) = rows_of(Task(title="finetune 1%", protocol="finetune", options=()), [drawn])
    assert (row["top1"], row["top1_std"], row["num_seeds"]) == (0.5, 0.1, 3)
    assert "map_area" not in row


def test_data_sets_are_known_by_what_is_in_them() -> None:
    assert data_called(imagenet100_classes()) == "ImageNet-100"
    assert data_called(tuple(f"n{number:08}" for number in range(1000))) == "ImageNet"
    assert data_called(tuple(f"n{number:08}" for number in range(10))) == data_called(("a", "b")) == ""
    assert data_called(None) == ""
    voc = {"year": "2007", "num_train": 5011, "num_val": 4952}
    assert voc_called(voc) == "VOC07"
    assert voc_called({**voc, "num_val": 4951}) == voc_called({**voc, "year": "2012"}) == ""


def test_torchvisions_network_is_the_supervised_row() -> None:
    shown = of_a_module("torchvision:resnet18", found="all")
    paper = paper_beside("linear", shown, data="ImageNet")
    assert paper is not None
    assert (paper["value"], paper["words"]) == (76.5, ["of a ResNet-50; here it is another network"])
    assert paper_beside("linear", of_a_module("untrained:torchvision:resnet18"), data="ImageNet") is None
    assert paper_beside("linear", of_a_module("weights:x.pth", found="all"), data="ImageNet") is None
    assert paper_beside("linear", of_a_module(), data="ImageNet") is None
    # The baseline that is trained here has its row whatever is measured.
    trained = paper_beside("supervised-1%", of_a_module(), data="ImageNet")
    assert trained is not None
    assert trained["value"] == 48.4
    assert "Zhai" in str(trained["words"])


def test_a_table_has_notes_once_and_says_what_is_recalled() -> None:
    paper = {"value": 63.5, "metric": "top1", "mark": "recalled", "words": ["elsewhere"]}
    row = {
        "top1": 0.5,
        "top1_std": None,
        "top5": 0.9,
        "top5_std": None,
        "num_seeds": 1,
        "random": "",
        "published": paper,
    }
    rows = [{**row, "name": "linear, lr 30"}, {**row, "name": "linear, lr 15"}]
    images = {"train": "a", "val": "b", "num_train": 1281167, "num_val": 50000, "num_classes": 1000}
    text = table_in_words({"representation": "runs/r", "recipe": None, **images, "rows": rows, "left_out": {}})
    assert text.startswith("runs/r: 1,281,167 images of a to learn from, 50,000 of b to measure on, 1,000 classes\n")
    assert text.count("63.5 top-1 [1] [2]") == 2
    assert text.count("[1] elsewhere") == text.count("[2] as recalled, unverified") == 1
    assert "+-" not in text
    assert "left out" not in text
