"""``co2ssl evaluate`` as a person meets it: each protocol's own options, what is left behind, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import co2ssl
from co2ssl.api import evaluate
from co2ssl.cli import main
from co2ssl.data.sources import open_source
from co2ssl.errors import UsageError
from co2ssl.evaluate import PROTOCOLS
from co2ssl.evaluate.options import OPTIONS
from tests.images import tiny, write_classes, write_images
from tests.processes import ProcessPair
from tests.voc import Shown, write_voc

PAIRS = [name for name, model in OPTIONS.items() if model.positional == ("train", "val")]
QUICK = ["--workers", "0", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 images in two classes to learn from, 12 to measure on, and a run."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_classes(folder / "train")
    write_classes(folder / "val", each=6)
    words = [
        "pretrain",
        str(folder / "train"),
        "--out",
        str(folder / "run"),
        "--quiet",
        "--recipe",
        "moco-small-32+co2",
    ]
    assert main([*words, *tiny(epochs=1)]) == 0
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """The run, fresh."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def words(protocol: str, backbone: Path | str, place: Path, *more: str) -> list[str]:
    return ["evaluate", protocol, str(backbone), str(place / "train"), str(place / "val"), *QUICK, *more]


def complaint(given: list[str], capsys: pytest.CaptureFixture[str], *, code: int) -> str:
    """What the command prints on stderr; it must exit with ``code``, without a traceback."""
    capsys.readouterr()
    try:
        exit_code: object = main(given)
    except SystemExit as stop:
        exit_code = stop.code
    text = capsys.readouterr().err
    assert exit_code == code, text
    assert "Traceback" not in text
    return text


def result(run: Path, name: str) -> dict[str, object]:
    found = json.loads((run / "evaluation" / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


def test_help_lists_the_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in PROTOCOLS)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate"])
    assert stop.value.code == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_has_its_own_help(protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", protocol, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert ("--neighbours" in text) == (protocol == "knn")
    assert ("--fast" in text) == (protocol == "linear")
    assert ("--pipeline" in text) == (protocol == "svm")
    assert ("--labels" in text) == (protocol in ("finetune", "supervised"))
    assert ("--head-lr" in text) == (protocol == "finetune")
    for common in ("--arch", "--max-bad-share", "--out", "BACKBONE"):
        assert common in text
    for of_features in ("--cache", "--feature-dtype"):
        assert (of_features in text) == (protocol not in ("finetune", "supervised"))


def test_an_option_of_another_protocol(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--neighbours" in complaint(words("linear", run, place, "--neighbours", "3"), capsys, code=2)


def test_every_form_leaves_its_result_and_prints_it(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("knn", run, place, "--neighbours", "3", "--temperature", "0.1")) == 0
    assert "knn: top-1 " in capsys.readouterr().out
    found = result(run, "knn-k-3-temperature-0.1")
    assert (found["k"], found["temperature"], found["num_val"], found["layer"]) == (3, 0.1, 12, "pooled")
    assert main(words("linear", run, place, "--fast")) == 0
    assert "L-BFGS" in capsys.readouterr().out
    assert result(run, "linear-fast")["num_train"] == 24
    assert main(words("linear", run, place, "--epochs", "3", "--batch-size", "8")) == 0
    text = capsys.readouterr().out
    assert "lr 30" in text
    assert "lr 15" in text
    assert "recalled" in text
    found = result(run, "linear-epochs-3-batch-size-8")
    assert (found["epochs"], found["num_classes"], found["protocol"]) == (3, 2, "linear")
    settings = found["settings"]
    assert isinstance(settings, dict)
    assert (settings["train"], settings["batch_size"], settings["lr"]) == (str(place / "train"), 8, None)
    assert (
        main(words("linear", run, place, "--epochs", "2", "--batch-size", "8", "--layer", "res4", "--lr", "1", "2"))
        == 0
    )
    rows = result(run, "linear-res4-lr-1-2-epochs-2-batch-size-8")["classifiers"]
    assert isinstance(rows, list)
    assert [row["lr"] for row in rows] == [1.0, 2.0]
    # Two sets of images, two layers; every form above shares them.
    assert len(list((run / "features").glob("*.npy"))) == 3


def test_finetuning_keeps_its_draws_and_leaves_the_backbone(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "backbone.safetensors").read_bytes()
    given = words("finetune", run, place, "--epochs", "2", "--labels", "50%")
    assert main([*given, "--draws", "2", "--batch-size", "4"]) == 0
    text = capsys.readouterr().out
    assert "finetune, mean of 2 trainings, last of 2 epochs on 12 labelled images: top-1 " in text
    assert " +- " in text
    assert "of 12 images, 2 classes" in text
    name = "finetune-50percent-epochs-2-batch-size-4-draws-2"
    found = result(run, name)
    assert (found["labels"], found["num_train"], found["batch_size"], found["head_lr"]) == ("50%", 12, 4, 1.0)
    assert (run / "backbone.safetensors").read_bytes() == before
    assert not (run / "features").exists()
    lists = [run / "evaluation" / f"{name}.seed-{seed}.txt" for seed in (0, 1)]
    names = [path.read_text().splitlines() for path in lists]
    assert [len([name for name in own if name.startswith("class-0/")]) for own in names] == [6, 6]
    assert names[0] != names[1]
    # The list that was left is the draw, for anyone who has the images.
    listed = words("finetune", run, place, "--epochs", "2", "--label-list", str(lists[0]))
    assert main([*listed, "--draws", "1", "--batch-size", "4"]) == 0
    again = result(run, f"finetune-{name}.seed-0-epochs-2-batch-size-4-draws-1")
    first, own = (rows["draws"][0] for rows in (found, again))  # type: ignore[index]
    assert (own["top1"], own["subset_hash"]) == (first["top1"], first["subset_hash"])
    assert again["labels"] is None


def test_supervised_rows_begin_with_fresh_weights_and_leave_a_backbone(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    assert main(words("supervised", run, place, "--epochs", "2", "--seed", "3")) == 0
    captured = capsys.readouterr()
    assert "supervised, last of 2 epochs on 24 labelled images: top-1 " in captured.out
    assert "24 labelled images are fewer than the published batch of 256" in captured.err
    found = result(run, "supervised-epochs-2-seed-3")
    assert (found["labels"], found["batch_size"], found["top1_std"]) == (None, 24, None)
    kept, own = (load_file(path) for path in (found["trained"], run / "backbone.safetensors"))  # type: ignore[arg-type]
    assert kept.keys() == own.keys()
    # The run's weights play no part: with others, and named in another way, all is the same.
    assert main(words("supervised", f"untrained:{run}", place, "--epochs", "2", "--seed", "3")) == 0
    other = json.loads((run / "evaluation" / "untrained" / "supervised-epochs-2-seed-3.json").read_text())
    assert (other["weights"], other["top1"]) == (found["weights"], found["top1"])
    assert all(torch.equal(value, kept[name]) for name, value in load_file(other["trained"]).items())
    assert main(words("supervised", run, place, "--epochs", "1", "--labels", "25%", "--draws", "2")) == 0
    assert result(run, "supervised-25percent-epochs-1-draws-2")["num_train"] == 6


def test_labels_that_cannot_be_had(place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("finetune", "supervised"):
        assert "give 1%, 10%" in complaint(words(protocol, run, place, "--labels", "0%"), capsys, code=2)
        assert "no option --no-cache" in complaint(words(protocol, run, place, "--no-cache"), capsys, code=2)
        with pytest.raises(UsageError, match="leave --cache out"):
            evaluate(protocol, run, place / "train", place / "val", cache=False)
        assert "at least 8.334%" in complaint(words(protocol, run, place, "--labels", "5%"), capsys, code=2)
        assert "no network to train" in complaint(words(protocol, f"pixels:{run}", place), capsys, code=2)
        (tmp_path / "list.txt").write_text("class-0/000.png\nclass-9/000.png\n")
        listed = words(protocol, run, place, "--label-list", str(tmp_path / "list.txt"))
        assert "lacks 1 of the 2 images" in complaint(listed, capsys, code=1)
    assert "fewer than its 2 classes" in complaint(words("finetune", run, place), capsys, code=2)


def test_svm_of_a_voc_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[Shown] = [[("person", False)], [("dog", False)], [("person", False), ("dog", False)], [("car", False)]]
    images = {f"{number:06}": shown[number % 4] for number in range(32)}
    names = list(images)
    devkit = write_voc(tmp_path, images, {"trainval": names[:20], "test": names[20:]}).parent
    given = ["evaluate", "svm", str(run), str(devkit), *QUICK, "--jobs", "1"]
    assert main(given) == 0
    assert "svm: mAP " in capsys.readouterr().out
    found = result(run, "svm")
    assert (found["pipeline"], found["num_train"], found["num_val"], found["num_classes"]) == ("vissl", 20, 12, 3)
    assert main([*given, "--pipeline", "pcl"]) == 0
    assert result(run, "svm-pcl")["cross_validation"] is None
    assert len(list((run / "features").glob("*.npy"))) == 4
    assert "no such folder" in complaint(["evaluate", "svm", str(run), str(tmp_path / "none"), *QUICK], capsys, code=1)


def test_features_are_made_once(place: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(words("knn", run, place)) == 0
    monkeypatch.setattr("co2ssl.evaluate.features.frozen_forward", None)
    assert main(words("linear", run, place, "--fast")) == 0
    with pytest.raises(TypeError):
        main(words("knn", run, place, "--no-cache"))
    with pytest.raises(TypeError):
        main(words("knn", run, place, "--image-size", "12"))


def test_no_cache_leaves_no_features(place: Path, run: Path) -> None:
    assert main(words("knn", run, place, "--no-cache")) == 0
    assert not (run / "features").exists()
    assert result(run, "knn")["num_val"] == 12


def test_what_a_run_has_to_beat_is_kept_beside_it(place: Path, run: Path) -> None:
    for kind, width in (("untrained", 64), ("pixels", 3 * 16 * 16)):
        assert main(words("knn", f"{kind}:{run}", place)) == 0
        found = json.loads((run / "evaluation" / kind / "knn.json").read_text())
        assert found["num_features"] == width
        assert found["representation"] == f"{kind}:{run}"
    assert not (run / "evaluation" / "knn.json").exists()


def test_a_file_of_weights_is_measured_and_what_matched_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    given = words("knn", f"weights:{tmp_path}/r18.pth", place, "--arch", "resnet18", "--image-size", "32")
    assert main([word for word in given if word != "--quiet"]) == 0
    assert "100 of 100 weights of a resnet18" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npy"))
    assert main([*given, "--out", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "evaluation" / "knn-image-size-32.json").is_file()
    assert len(list((tmp_path / "kept" / "features").glob("*.npy"))) == 2


def test_the_same_from_python(place: Path, run: Path, tmp_path: Path) -> None:
    data = str(place / "train"), place / "val"
    quick: dict[str, Any] = {"workers": 0, "device": "cpu", "quiet": True}
    by_name = evaluate("knn", run, *data, neighbours=3, **quick)
    module = co2ssl.load_encoder(run)
    module.train()
    sources = open_source(str(place / "train")), open_source(str(place / "val"))
    by_object = evaluate("knn", module, *sources, image_size=16, neighbours=3, out=str(tmp_path / "out"), **quick)
    assert (by_object["top1"], by_object["weights"]) == (by_name["top1"], by_name["weights"])
    assert by_object["representation"] == "ResNet"
    assert (
        json.loads((tmp_path / "out" / "evaluation" / "knn-k-3-image-size-16.json").read_text())["top1"]
        == by_name["top1"]
    )
    assert module.training
    with pytest.raises(UsageError, match="knn needs TRAIN and VAL; 1 given"):
        evaluate("knn", run, str(place / "train"))
    with pytest.raises(UsageError, match="did you mean neighbours"):
        evaluate("knn", run, *data, neighbors=3)
    with pytest.raises(UsageError, match="no layer res4"):
        evaluate("knn", nn.Flatten(), *data, image_size=8, layer="res4", **quick)


def evaluate_together(protocol: str, run: str, train: str, val: str, options: dict[str, Any]) -> dict[str, object]:
    return evaluate(protocol, run, train, val, workers=0, device="cpu", quiet=True, **options)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("knn", {"neighbours": 3}),
        ("linear", {"fast": True}),
        ("linear", {"epochs": 2, "batch_size": 8, "lr": (0.1,)}),
        ("finetune", {"epochs": 1, "batch_size": 8, "labels": "50%", "draws": 1}),
    ],
)
def test_two_processes_find_what_one_finds(
    protocol: str, options: dict[str, Any], two_processes: ProcessPair, place: Path, run: Path, tmp_path: Path
) -> None:
    data = str(place / "train"), str(place / "val")
    first, second = two_processes(evaluate_together, protocol, str(run), *data, options)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    alone = evaluate_together(protocol, str(run), *data, {**options, "out": str(tmp_path / "alone")})
    assert (first["top1"], first["num_train"], first["num_val"]) == (alone["top1"], alone["num_train"], 12)
    if protocol == "finetune":
        return
    assert first["num_train"] == 24
    without = two_processes(evaluate_together, protocol, str(run), *data, {**options, "cache": False})[0]
    assert without["top1"] == alone["top1"]


def test_broken_off_finetuning_goes_on_with_the_same_command(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("finetune", run, place, "--labels", "50%", "--epochs", "2", "--batch-size", "6", "--draws", "2")
    assert main(given) == 0
    name = "finetune-50percent-epochs-2-batch-size-6-draws-2"
    straight = result(run, name)
    asked = iter([False, False, False, False, False, True])
    with monkeypatch.context() as patched:
        patched.setattr("co2ssl.evaluate.label_draws.stop_on_signals", lambda: Answers(asked))
        assert "the same command goes on" in complaint(given, capsys, code=130)
    assert (run / "evaluation" / f"{name}.partial.ckpt").is_file()
    assert main(given) == 0
    later = result(run, name)
    assert [row["top1"] for row in later["draws"]] == [row["top1"] for row in straight["draws"]]  # type: ignore[attr-defined]
    assert not (run / "evaluation" / f"{name}.partial.ckpt").exists()


def test_a_broken_off_training_goes_on_with_the_same_command(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words("linear", run, place, "--epochs", "3", "--batch-size", "8")
    assert main(given) == 0
    name = "linear-epochs-3-batch-size-8"
    straight = {**result(run, name), "seconds": 0}
    asked = iter([False, False, False, False, True])
    with monkeypatch.context() as patched:
        patched.setattr("co2ssl.evaluate.linear_sgd.stop_on_signals", lambda: Answers(asked))
        assert "the same command goes on" in complaint(given, capsys, code=130)
    assert (run / "evaluation" / f"{name}.partial.ckpt").is_file()
    assert main(given) == 0
    assert {**result(run, name), "seconds": 0} == straight
    assert not (run / "evaluation" / f"{name}.partial.ckpt").exists()


class Answers:
    """In the place of ``stop_on_signals``: whether to stop, step by step."""

    def __init__(self, answers: object) -> None:
        self.answers = answers

    def __enter__(self) -> object:
        return lambda: next(self.answers)  # type: ignore[call-overload]

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("protocol", PAIRS)
def test_images_without_labels(
    protocol: str, place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "flat", 10)
    for train, val in ((tmp_path / "flat", place / "val"), (place / "train", tmp_path / "flat")):
        text = complaint(["evaluate", protocol, str(run), str(train), str(val), *QUICK], capsys, code=1)
        assert "flat has no labels" in text
        assert "one subfolder of images per class" in text
    assert not (run / "features").exists()


@pytest.mark.parametrize("protocol", PAIRS)
def test_one_class(protocol: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(tmp_path / "single", classes=1)
    given = ["evaluate", protocol, str(run), str(tmp_path / "single"), str(tmp_path / "single"), *QUICK]
    assert "at least two" in complaint(given, capsys, code=1)


@pytest.mark.parametrize("protocol", PAIRS)
def test_a_class_that_is_empty_in_training_or_not_there(
    protocol: str, place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "three", classes=3, each=4)
    given = ["evaluate", protocol, str(run), str(tmp_path / "two"), str(tmp_path / "three"), *QUICK]
    shutil.copytree(place / "train", tmp_path / "two")
    assert "lacks: 'class-2'" in complaint(given, capsys, code=1)
    (tmp_path / "two" / "class-2").mkdir()
    assert "has no image of 'class-2'" in complaint(given, capsys, code=1)
    # Also where nothing is measured on it.
    given[4] = str(place / "val")
    assert "has no image of 'class-2'" in complaint(given, capsys, code=1)


def test_weights_of_another_architecture(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = co2ssl.load_encoder(run).state_dict()
    other["layer1.0.conv1.weight"] = torch.zeros(3, 3, 3, 3)
    del other["layer2.0.bn1.weight"]
    import safetensors.torch

    safetensors.torch.save_file(other, run / "backbone.safetensors")
    text = complaint(words("knn", run, place), capsys, code=1)
    assert "layer2.0.bn1.weight" in text
    assert "layer1.0.conv1.weight is (3, 3, 3, 3)" in text


def test_features_of_other_weights(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("knn", run, place)) == 0
    backbone = co2ssl.load_encoder(run)
    with torch.no_grad():
        backbone.conv1.weight.mul_(2)
    from co2ssl.train.checkpoint import save_backbone

    kept = {path.stem: path for path in (run / "features").glob("*.npy")}
    save_backbone(run / "backbone.safetensors", backbone)
    # Of itself, it is not looked at: the other weights have other names.
    assert main(words("knn", run, place)) == 0
    new = [path for path in (run / "features").glob("*.npy") if path.stem not in kept]
    assert len(new) == 2
    for path, old in zip(new, kept.values(), strict=True):
        shutil.copy(old, path)
        shutil.copy(old.with_suffix(".json"), path.with_suffix(".json"))
    assert "holds features of other weights" in complaint(words("knn", run, place), capsys, code=1)


def test_the_same_images_twice_are_warned_of(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = str(place / "train")
    assert main(["evaluate", "knn", str(run), train, train, *QUICK]) == 0
    assert "are the same images" in capsys.readouterr().err


def test_no_run_and_a_misspelt_backbone(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run folder" in complaint(words("knn", tmp_path / "none", place), capsys, code=2)
    assert "needs --arch" in complaint(words("knn", "weights:x.pth", place), capsys, code=2)
    assert "Did you mean resnet18" in complaint(words("knn", "torchvision:resnet81", place), capsys, code=2)


def test_what_only_sgd_uses_is_refused_beside_fast(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave --epochs out" in complaint(words("linear", run, place, "--fast", "--epochs", "3"), capsys, code=2)


def test_fewer_images_than_the_published_batch_are_one_batch(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "24 labelled images are fewer than the published batch of 256: each epoch is one step on 24 of them"
    for protocol in ("linear", "supervised"):
        assert main(words(protocol, run, place, "--epochs", "2")) == 0
        captured = capsys.readouterr()
        assert note in captured.err
        assert note in captured.out
        found = result(run, f"{protocol}-epochs-2")
        assert (found["batch_size"], found["settings"]["batch_size"]) == (24, None)  # type: ignore[index]
        assert str(found["note"]).startswith(note)
    # What was asked for is taken as it is, or refused.
    assert main(words("linear", run, place, "--epochs", "2", "--batch-size", "8")) == 0
    assert "fewer than" not in capsys.readouterr().err
    found = result(run, "linear-epochs-2-batch-size-8")
    assert (found["batch_size"], found["note"]) == (8, None)
    asked = words("linear", run, place, "--batch-size", "32")
    assert "--batch-size of at most 24" in complaint(asked, capsys, code=2)


def test_no_larger_rates_are_advised_than_failed(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words("linear", run, place, "--epochs", "3", "--batch-size", "8", "--lr", "1e6", "4e4")
    assert main(given) == 0
    text = capsys.readouterr().err
    assert text.count("did not converge") == 2
    assert text.count("Give smaller ones, such as --lr 4000 400\n") == 2


def test_how_many_images_may_be_bad(place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "train", tmp_path / "train")
    for name in ("class-0/001.png", "class-0/004.png", "class-1/007.png"):
        assert (tmp_path / "train" / name).is_file()
        (tmp_path / "train" / name).write_bytes(b"no image")
    pair = [str(tmp_path / "train"), str(place / "val"), *QUICK]
    more = ["--max-bad-share", "0.2"]
    few = ["--epochs", "1", "--batch-size", "8"]
    forms = (["knn"], ["linear", *few], ["supervised", *few], ["finetune", *few, "--labels", "100%", "--draws", "1"])
    for protocol, *form in forms:
        given = ["evaluate", protocol, str(run), *pair, *form]
        assert "of the 24 images of" in complaint(given, capsys, code=1)
        assert main([*given, *more]) == 0
    assert result(run, "knn")["num_train"] == 21
    # Features that lie there by now are of fewer images than is allowed again.
    text = complaint(["evaluate", "knn", str(run), *pair], capsys, code=1)
    assert "3 of the 24 images of" in text
    assert "more than 5%" in text
    assert "--max-bad-share" in text
    # Each set by itself: of the 12 that are measured on, three are a quarter.
    swapped = ["evaluate", "knn", str(run), str(place / "val"), str(tmp_path / "train"), *QUICK]
    assert "of the 24 images of" in complaint(swapped, capsys, code=1)
    assert main([*swapped, *more]) == 0
    assert result(run, "knn")["num_val"] == 21
    assert "--max-bad-share" in complaint([*swapped, "--max-bad-share", "1.5"], capsys, code=2)
