"""What ``co2ssl pretrain`` says before, after and instead of training."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import co2ssl
from co2ssl.api import beginning, pretraining
from co2ssl.cli import main
from co2ssl.config import Machine, read_run_config
from co2ssl.errors import UsageError
from co2ssl.train.health import collapse_advice
from co2ssl.train.stop import Interrupted
from tests.images import TINY, tiny, write_classes, write_images

RECIPE = ["--recipe", "moco-small-32+co2"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 images in two classes."""
    write_classes(tmp_path / "images")
    return tmp_path / "images"


def trained(images: Path, out: Path, **changed: object) -> Path:
    assert main(["pretrain", str(images), "--out", str(out), "--quiet", *RECIPE, *tiny(**changed)]) == 0
    return out


def stands(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder: when it was written, and its content."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_complete_run_is_not_trained_again(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(images, tmp_path / "run")
    before = stands(run)
    # What it was trained on is not needed any more.
    images.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["pretrain", "--resume", str(run)]) == 0
    text = capsys.readouterr().err
    assert f"{run} is complete, all 2 of 2 epochs" in text
    assert f"{run}/backbone.safetensors" in text
    assert f"co2ssl evaluate knn {run} TRAIN VAL" in text
    assert stands(run) == before
    assert main(["pretrain", "--resume", str(run), "--max-bad-share", "0.5"]) == 0
    assert stands(run) == before


@pytest.mark.parametrize("lost", ["backbone.safetensors", "report.html"])
def test_a_run_that_lacks_what_it_leads_to_is_not_complete(lost: str, images: Path, tmp_path: Path) -> None:
    run = trained(images, tmp_path / "run", epochs=1)
    (run / lost).unlink()
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
    assert (run / lost).is_file()


def test_a_run_cannot_be_made_longer(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(images, tmp_path / "run")
    before = stands(run)
    resume = ["pretrain", "--resume", str(run)]
    for more, said in (
        (["--epochs", "5"], "one of 2 epochs, over which its schedule was laid out at the start"),
        (["--lr", "0.5", "--seed", "3"], "leave out --lr, --seed"),
        (["--recipe", "simclr"], "leave out --recipe"),
        (["--out", str(tmp_path / "other")], "leave out --out"),
    ):
        assert main([*resume, *more]) == 2
        assert said in capsys.readouterr().err
    assert stands(run) == before
    # What it has already is no change.
    assert main([*resume, "--epochs", "2", "--out", str(run), *RECIPE]) == 0
    with pytest.raises(UsageError, match="did you mean epochs"):
        co2ssl.pretrain(resume=run, epoch=2)
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "its schedule was laid out" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_only_the_training_part_is_used_and_it_is_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    images.rename(both / "train")
    write_images(both / "valid", 3)
    words = ["pretrain", str(both), "--out", str(tmp_path / "run"), *RECIPE, *tiny(epochs=1)]
    assert main(words) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        f"24 images of {both}/train; only this part of {both} is used to pretrain, {both}/valid is left for "
        "`co2ssl evaluate`"
    )
    (tmp_path / "run/backbone.safetensors").unlink()
    assert main(["pretrain", "--resume", str(tmp_path / "run")]) == 0
    assert first in capsys.readouterr().err
    plain = ["pretrain", f"{both}/train", "--out", str(tmp_path / "plain"), *RECIPE, *tiny(epochs=1)]
    assert main(plain) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"24 images of {both}/train"


def test_the_network_is_fitted_whatever_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos", 64, side=240)
    monkeypatch.setattr(pretraining, "_train", lambda *_, **__: None)
    slow = Machine(device="cpu", cores=1, memory=16 * 10**9)
    monkeypatch.setattr(beginning, "describe_machine", lambda _: slow)
    networks, epochs = set(), []
    for name, more in (("one", ["--epochs", "1"]), ("fitted", []), ("many", ["--epochs", "800"])):
        out = tmp_path / name
        words = ["pretrain", str(tmp_path / "photos"), "--out", str(out), "--device", "cpu", *more]
        assert main(words) == 0
        recipe = read_run_config(out / "config.yaml").resolved.recipe
        networks.add((recipe.arch, recipe.width, recipe.image_size, recipe.stem, recipe.head_hidden))
        epochs.append(recipe.epochs)
        assert "the recipe's 200 epochs of 64 images" in capsys.readouterr().err
    assert len(networks) == 1
    assert networks != {("resnet50", 1.0, 224, "imagenet", 2048)}
    assert epochs[0] == 1
    assert epochs[2] == 800


def collapsed(*_: object, advice: str, **__: object) -> Any:
    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        return {"spread": 0.01, "effective_rank": 1.0, "warning": f"the embeddings are almost the same: {advice}"}

    return probe


def test_a_short_run_speaks_of_collapse_at_its_end_only(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretraining, "spread_probe", collapsed)
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, *tiny(epochs=3, probe_every=1)]
    assert main(words) == 0
    text = capsys.readouterr().err
    advice = collapse_advice(consistency_weight=10.0, ramp_epochs=0, epochs=3)
    said = f"at the end of the run the embeddings are almost the same: {advice}; but 9 steps say little"
    assert text.count("almost the same") == text.count(said) == 1
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    probes = [event for event in events if event["event"] == "probe"]
    assert [("warning" in probe, probe["spread"]) for probe in probes] == [(False, 0.01), (False, 0.01), (True, 0.01)]
    assert said in html.unescape((tmp_path / "run/report.html").read_text())
    # A warning is no progress.
    trained(images, tmp_path / "quiet", epochs=1, probe_every=1)
    assert "co2ssl: warning: at the end of the run the embeddings are almost the same" in capsys.readouterr().err


def test_a_run_prints_what_it_is_in_a_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {**TINY, "quiet": True, "probe_every": 1}

    def stopping(*_: object, **__: object) -> Any:
        def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
            raise Interrupted("enough")

        return probe

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "spread_probe", stopping)
        with pytest.raises(Interrupted):
            co2ssl.pretrain(images, out=tmp_path / "run", recipe="moco-small-32+co2", **settings)
    from co2ssl.api import read_run

    run = read_run(tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "epo')
    print(run)
    begun = capsys.readouterr().out
    assert begun.startswith(f"Run(moco-small-32+co2 in {tmp_path}/run, 1 of 2 epochs, L_ins ")
    print(co2ssl.pretrain(resume=tmp_path / "run", quiet=True))
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "epoch"][-1]
    assert capsys.readouterr().out == (
        f"Run(moco-small-32+co2 in {tmp_path}/run, 2 of 2 epochs, L_ins {last['instance']:.3f}, "
        f"L_con {last['consistency']:.3f})\n"
    )
    (tmp_path / "run/metrics.jsonl").unlink()
    assert repr(run) == f"Run(moco-small-32+co2 in {tmp_path}/run, 0 of 2 epochs)"
