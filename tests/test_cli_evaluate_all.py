"""``co2ssl evaluate all`` as a person meets it: one table, one JSON, and what was finished is not done again."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import co2ssl
from co2ssl.api import evaluate
from co2ssl.api.evaluation import in_words
from co2ssl.api.protocols import MEASURES
from co2ssl.cli import main
from co2ssl.data.sources import open_source
from co2ssl.evaluate.features import EvaluationError
from tests.images import tiny, write_classes, write_images, write_parts
from tests.processes import ProcessPair
from tests.test_cli_evaluate import Answers, complaint
from tests.voc import Shown, write_voc

QUICK = ["--workers", "0", "--device", "cpu", "--quiet"]
USED = "co2ssl.api.results.MEASURES"
QUIET: dict[str, Any] = {"workers": 0, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with train (20 in two classes) and val (12), beside them a run of a published recipe, made small."""
    folder = tmp_path_factory.mktemp("all")
    write_parts(folder / "images")
    words = ["pretrain", str(folder / "images"), "--out", str(folder / "run"), "--quiet", "--recipe", "moco+co2"]
    small = ["--arch", "resnet10", "--stem", "small"]
    assert main([*words, *small, *tiny(epochs=1)]) == 0
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """The run, fresh."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def words(backbone: Path | str, data: Path, *more: str) -> list[str]:
    return ["evaluate", "all", str(backbone), str(data), *QUICK, *more]


def kept(run: Path, name: str = "all") -> dict[str, Any]:
    found = json.loads((run / "evaluation" / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


def refuse(*_: object) -> dict[str, object]:
    raise AssertionError("this was measured already")


def test_one_table_one_json_and_no_measurement_twice(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(run, place / "images")) == 0
    text = capsys.readouterr().out
    found = kept(run)
    assert (found["num_train"], found["num_val"], found["num_classes"]) == (20, 12, 2)
    assert [row["name"] for row in found["rows"]] == ["knn", "linear --fast", "finetune 10%"]
    # Every row stands in the table with the numbers of the JSON, and in a JSON of its own.
    for row in found["rows"]:
        line = next(line for line in text.splitlines() if line.strip().startswith(row["name"]))
        assert f"{100 * row['top1']:.2f}" in line
        assert f"{100 * row['top5']:.2f}" in line
        (name,) = row["measurements"]
        assert found["measurements"][name] == kept(run, name)
        assert row["top1"] == kept(run, name)["top1"]
    assert in_words(found) == text.rstrip("\n")
    for name, reason in found["left_out"].items():
        assert f"{name}  " in text
        assert reason in text
    assert set(found["left_out"]) == {"linear", "finetune 1%", "supervised", "svm"}
    assert "fewer than its 2 classes" in found["left_out"]["finetune 1%"]
    # Fine-tuning is the mean of three by itself, the rest is measured once.
    assert [row["num_seeds"] for row in found["rows"]] == [1, 1, 3]
    assert f" +- {100 * found['rows'][2]['top1_std']:.2f}" in text
    assert "nothing is random in knn" in text

    monkeypatch.setattr(USED, dict.fromkeys(MEASURES, refuse))
    assert main(words(run, place / "images")) == 0
    assert kept(run) == found
    # What is not of these weights, images and settings is measured anew.
    measured = {"top1": 0.125, "top5": 1.0, "seconds": 0}
    monkeypatch.setattr(USED, {**dict.fromkeys(MEASURES, refuse), "knn": lambda *_: measured})
    with pytest.raises(AssertionError):
        main(words(run, place / "images", "--precision", "bf16"))
    backbone = co2ssl.load_encoder(run)
    with torch.no_grad():
        backbone.conv1.weight.mul_(2)
    from co2ssl.train.checkpoint import save_backbone

    save_backbone(run / "backbone.safetensors", backbone)
    before = kept(run, "knn")
    with pytest.raises(AssertionError):
        main(words(run, place / "images"))
    after = kept(run, "knn")
    assert (after["top1"], after["key"] == before["key"]) == (0.125, False)


def test_other_images_under_the_same_names_are_measured_anew(place: Path, run: Path, tmp_path: Path) -> None:
    data = tmp_path / "images"
    shutil.copytree(place / "images", data)
    only_knn = evaluate("knn", run, data / "train", data / "val", **QUIET)
    same = evaluate("knn", run, data / "train", data / "val", **QUIET, out=str(tmp_path / "elsewhere"))
    assert same["key"] == only_knn["key"]
    assert evaluate("knn", run, data / "train", data / "val", **QUIET, temperature=0.2)["key"] != only_knn["key"]
    shutil.copy(data / "train" / "class-0" / "000.png", data / "train" / "class-1" / "000.png")
    assert evaluate("knn", run, data / "train", data / "val", **QUIET)["key"] != only_knn["key"]


def test_what_was_broken_off_goes_on(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(run, place / "images")
    # In the second of the three trainings of twenty epochs, one step each.
    asked = iter([False] * 24 + [True])
    with monkeypatch.context() as patched:
        patched.setattr("co2ssl.evaluate.label_draws.stop_on_signals", lambda: Answers(asked))
        assert "the same command goes on" in complaint(given, capsys, code=130)
    assert not (run / "evaluation" / "all.json").exists()
    assert (run / "evaluation" / "finetune-10percent.partial.ckpt").is_file()
    finished = dict.fromkeys(("knn", "linear"), refuse)
    monkeypatch.setattr(USED, {**MEASURES, **finished})
    assert main(given) == 0
    resumed = kept(run)
    alone = evaluate("finetune", run, place / "images", place / "images", labels="10%", out=str(run / "alone"), **QUIET)
    assert [row["name"] for row in resumed["rows"]] == ["knn", "linear --fast", "finetune 10%"]
    assert resumed["rows"][2]["top1"] == alone["top1"]
    assert resumed["measurements"]["finetune-10percent"]["key"] == alone["key"]


def test_seeds_of_what_is_random(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(run, place / "images", "--seeds", "2", "--seed", "3")) == 0
    text = capsys.readouterr().out
    rows = {row["name"]: row for row in kept(run)["rows"]}
    single = [kept(run, f"linear-fast-seed-{seed}") for seed in (3, 4)]
    values = [float(found["top1"]) for found in single]
    assert rows["linear --fast"]["top1"] == statistics.fmean(values)
    assert rows["linear --fast"]["top1_std"] == statistics.stdev(values)
    assert [row["seed"] for row in kept(run, "finetune-10percent-seed-3-draws-2")["draws"]] == [3, 4]
    assert (rows["knn"]["top1_std"], rows["knn"]["num_seeds"]) == (None, 1)
    assert "nothing is random in knn" in text
    assert "2: the tenth of the images on which the penalty is chosen" in text


def test_the_papers_number_stands_beside_with_what_sets_it_apart(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(run, place / "images")) == 0
    text = capsys.readouterr().out
    rows = {row["name"]: row["published"] for row in kept(run)["rows"]}
    assert rows["knn"] is None
    linear, finetune = rows["linear --fast"], rows["finetune 10%"]
    assert (linear["value"], linear["metric"], linear["mark"]) == (63.5, "top1", "seen")
    assert (finetune["value"], finetune["metric"]) == (85.2, "top5")
    assert "63.5 top-1 [1]" in text
    assert "85.2 top-5" in text
    for part in (
        "on ImageNet; here",
        "by SGD on random crops",
        "pretrained on ImageNet; here on 20 images",
        "arch, width",
    ):
        assert any(part in word for word in linear["words"]), part
        assert part in text
    # Nobody prints a number for fresh weights.
    assert main(words(f"untrained:{run}", place / "images")) == 0
    assert all(row["published"] is None for row in kept(run, "untrained/all")["rows"])
    assert "paper %" not in capsys.readouterr().out


def test_pixels_have_what_needs_no_network(place: Path, run: Path) -> None:
    assert main(words(f"pixels:{run}", place / "images", "--full", "--supervised")) == 0
    found = kept(run, "pixels/all")
    assert [row["name"] for row in found["rows"]] == ["knn", "linear --fast"]
    assert found["left_out"]["finetune"] == found["left_out"]["supervised"] == "pixels have no network to train"
    assert "not for pixels" in found["left_out"]["linear"]


def write_devkit(folder: Path) -> Path:
    shown: list[Shown] = [[("person", False)], [("dog", False)], [("person", False), ("dog", False)], [("car", False)]]
    names = [f"{number:06}" for number in range(32)]
    images = {name: shown[number % 4] for number, name in enumerate(names)}
    return write_voc(folder, images, {"trainval": names[:20], "test": names[20:]}).parent


def test_a_voc_folder(
    place: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Starting processes takes longer than these few fits.
    monkeypatch.setattr("co2ssl.api.protocols.usable_cores", lambda: 1)
    devkit = write_devkit(tmp_path)
    assert main(words(run, devkit)) == 0
    text = capsys.readouterr().out
    found = kept(run)
    (row,) = found["rows"]
    assert (found["num_train"], found["num_val"], found["num_classes"]) == (20, 12, 3)
    assert (row["protocol"], row["map_area"]) == ("svm", kept(run, "svm")["map_area"])
    assert f"{100 * row['map_11point']:.2f}" in text
    assert (row["published"]["value"], row["published"]["metric"]) == (82.6, "map_11point")
    assert "on VOC07; here it is other images" in row["published"]["words"]
    assert "several classes" in found["left_out"]["knn"]
    assert "leave --voc and --val out" in complaint(words(run, devkit, "--val", str(devkit)), capsys, code=2)
    # Beside other images, and from Python.
    sources = [open_source(str(place / "images"), split) for split in ("train", "val")]
    both = evaluate("all", run, sources[0], val=sources[1], voc=devkit, **QUIET)
    rows = both["rows"]
    assert isinstance(rows, list)
    assert [own["name"] for own in rows] == ["knn", "linear --fast", "finetune 10%", "svm"]
    assert json.loads(json.dumps(both)) == kept(run)


def everything_together(run: str, data: str, out: str) -> dict[str, object]:
    return evaluate("all", run, data, out=out, **QUIET)


def test_two_processes_find_what_one_finds(two_processes: ProcessPair, place: Path, run: Path, tmp_path: Path) -> None:
    given = str(run), str(place / "images")
    first, second = two_processes(everything_together, *given, str(tmp_path / "two"))
    assert first["rows"] == second["rows"]
    left_out = first["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["finetune 10%"] == "2 labelled images are fewer than two for each of 2 processes"
    # What two have measured, one takes over.
    together = first["rows"]
    assert isinstance(together, list)
    rows = everything_together(*given, str(tmp_path / "two"))["rows"]
    assert isinstance(rows, list)
    assert rows[:2] == together
    rows = everything_together(*given, str(tmp_path / "one"))["rows"]
    assert isinstance(rows, list)
    assert [row["top1"] for row in rows[:2]] == [row["top1"] for row in together]


def test_what_one_protocol_cannot_measure_is_left_out(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unfit(*_: object) -> dict[str, object]:
        raise EvaluationError("no class of two images")

    monkeypatch.setattr(USED, {**MEASURES, "linear": unfit})
    assert main(words(run, place / "images")) == 0
    captured = capsys.readouterr()
    assert "linear --fast is left out: no class of two images" in captured.err
    assert "no class of two images" in captured.out
    found = kept(run)
    assert [row["name"] for row in found["rows"]] == ["knn", "finetune 10%"]
    assert found["left_out"]["linear --fast"] == "no class of two images"
    monkeypatch.setattr(USED, dict.fromkeys(MEASURES, unfit))
    given = words(run, place / "images", "--out", str(run / "elsewhere"))
    assert "nothing could be measured" in complaint(given, capsys, code=1)


@pytest.mark.parametrize("protocol", ["knn", "finetune"])
def test_a_measurement_that_fails_moves_nothing(protocol: str, place: Path, run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": "50%", "epochs": 1} if protocol == "finetune" else {}
    evaluate(protocol, run, place / "images", place / "images", **options, **QUIET)
    before = {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()}
    write_images(tmp_path / "flat", 10)
    with pytest.raises(EvaluationError, match="has no labels"):
        evaluate(protocol, run, tmp_path / "flat", tmp_path / "flat", **options, **QUIET)
    assert {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()} == before


def test_tables_of_other_images_are_kept_too(place: Path, run: Path, tmp_path: Path) -> None:
    evaluate("all", run, place / "images", **QUIET)
    first = kept(run)
    write_parts(tmp_path / "images")
    (tmp_path / "images" / "train" / "class-0" / "000.png").unlink()
    evaluate("all", run, tmp_path / "images", **QUIET)
    assert kept(run)["num_train"] == 19
    assert kept(run, f"all.{first['key']}") == first
    assert kept(run, f"knn.{first['measurements']['knn']['key']}") == first["measurements"]["knn"]


def test_images_that_do_not_do(place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "flat", 10)
    assert "has no labels" in complaint(words(run, tmp_path / "flat"), capsys, code=1)
    text = complaint(words(run, place / "images" / "train"), capsys, code=2)
    assert "no part of its own to measure on" in text
    assert "--val" in text
    write_classes(tmp_path / "three", classes=3, each=4)
    given = words(run, place / "images" / "train", "--val", str(tmp_path / "three"))
    assert "lacks: 'class-2'" in complaint(given, capsys, code=1)
    assert "no such folder" in complaint(words(run, tmp_path / "none"), capsys, code=1)
    assert "--neighbours" in complaint(words(run, place / "images", "--neighbours", "3"), capsys, code=2)
    assert not (run / "evaluation").exists()
