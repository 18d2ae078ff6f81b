"""The command line as a person meets it, bad input above all: one clear message, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from co2ssl.cli import COMMANDS, main
from co2ssl.config import DEFAULT_RECIPE
from tests.images import tiny, write_classes, write_images

RECIPE = ["--recipe", "moco-small-32+co2"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 images in two classes."""
    write_classes(tmp_path / "images")
    return tmp_path / "images"


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int) -> str:
    """What the command prints on stderr; it must exit with ``code``, in one sentence, without a traceback."""
    capsys.readouterr()
    try:
        exit_code: object = main(words)
    except SystemExit as stop:
        exit_code = stop.code
    text = capsys.readouterr().err
    assert exit_code == code, text
    assert "Traceback" not in text
    return text


def trained(images: Path, out: Path, **changed: object) -> Path:
    assert main(["pretrain", str(images), "--out", str(out), "--quiet", *RECIPE, *tiny(**changed)]) == 0
    return out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "examples:" in text


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_a_help_page_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"co2ssl {command}" in capsys.readouterr().out


def test_help_answers_without_importing_torch() -> None:
    program = "import sys; from co2ssl.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean pretrain?" in complaint(["pretrian"], capsys, code=2)


def test_a_misspelt_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean linear?" in complaint(["evaluate", "linaer", "r", "a", "b"], capsys, code=2)


def test_methods_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for name in ("moco-v2", "simclr", "moco-imagenet100", "recalled"):
        assert name in text


def test_a_run_leaves_its_folder_and_can_be_measured(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained(images, tmp_path / "run", probe_every=1)
    for name in ("config.yaml", "metrics.jsonl", "backbone.safetensors", "report.html"):
        assert (out / name).is_file(), name
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000003.ckpt", "step-000006.ckpt"]
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    probes = [event for event in events if event["event"] == "probe"]
    assert {"spread", "effective_rank", "top1"} <= probes[-1].keys()
    step = next(event for event in events if event["event"] == "train")
    for name in ("instance", "consistency", "top1", "learning_rate", "images_per_second", "wait_share"):
        assert name in step
    capsys.readouterr()
    for name, form in (("knn", ["knn"]), ("linear-fast", ["linear", "--fast"])):
        assert main(["evaluate", *form, str(out), str(images), str(images), "--workers", "0"]) == 0
        said = capsys.readouterr()
        assert "top-1" in said.out
        assert "are the same images" in said.err
        assert json.loads((out / "evaluation" / f"{name}.json").read_text())["num_val"] == 24
    assert main(["evaluate", "knn", f"pixels:{out}", str(images), str(images), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_features"] == 3 * 16 * 16


def test_a_folder_without_labels_trains_fitted_to_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos" / "deep" / "er", 40)
    words = ["pretrain", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--epochs", "1", "--workers", "0"]
    assert main([*words, "--width", "0.125", "--device", "cpu"]) == 0
    text = capsys.readouterr().err
    assert DEFAULT_RECIPE in text
    assert "queue_size" in text
    probe = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    assert "spread" in probe
    assert "top1" not in probe


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    text = complaint(["pretrain", str(tmp_path / "photo"), "--out", str(tmp_path / "run"), *RECIPE], capsys, code=1)
    assert "no such folder" in text
    assert "photos" in text
    assert not (tmp_path / "run").exists()


def test_a_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("none")
    text = complaint(["pretrain", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *RECIPE], capsys, code=1)
    assert "jpg" in text
    assert "1 .txt" in text


def test_fewer_images_than_a_batch(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, *tiny(batch_size=32)]
    text = complaint(words, capsys, code=2)
    assert "24" in text
    assert "--batch-size" in text
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_skipped_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "photos", 40)
    (tmp_path / "photos" / "007.png").write_bytes(b"not an image")
    words = ["pretrain", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *RECIPE, *tiny()]
    assert main(words) == 0
    text = capsys.readouterr().err
    assert "1 unreadable image" in text
    assert "007.png" in text
    assert "007.png" in (tmp_path / "run" / "bad_images.csv").read_text()


def test_an_unknown_recipe(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), "--recipe", "moco-v3"]
    assert "moco-v2" in complaint(words, capsys, code=2)


def test_an_unknown_option(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, "--epoch", "3"]
    assert "did you mean --epochs, " in complaint(words, capsys, code=2)
    assert not (tmp_path / "run").exists()


def test_a_value_of_the_wrong_type(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, "--epochs", "three"]
    assert "--epochs" in complaint(words, capsys, code=2)


def test_a_value_out_of_range(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, "--temperature", "-1"]
    assert "--temperature" in complaint(words, capsys, code=2)


def test_an_output_folder_that_holds_another_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = trained(images, tmp_path / "run", epochs=1)
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    text = complaint(["pretrain", str(images), "--out", str(out), *RECIPE, *tiny()], capsys, code=2)
    assert f"--resume {out}" in text
    assert f"{out}-2" in text
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_an_output_folder_with_other_files(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    text = complaint(["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, *tiny()], capsys, code=2)
    assert "thesis.tex" in text


def test_an_output_folder_that_cannot_be_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file in the path stops even a superuser, whom permissions do not.
    (tmp_path / "file").touch()
    text = complaint(
        ["pretrain", str(images), "--out", str(tmp_path / "file" / "run"), *RECIPE, *tiny()], capsys, code=1
    )
    assert "cannot write" in text
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        words = ["pretrain", str(images), "--out", str(tmp_path / "closed" / "run"), *RECIPE, *tiny()]
        assert "ermission" in complaint(words, capsys, code=1)


def test_resuming_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run folder" in complaint(["pretrain", "--resume", str(tmp_path / "none")], capsys, code=2)
    assert "config.yaml is missing" in complaint(["pretrain", "--resume", str(tmp_path)], capsys, code=2)


def test_options_beside_resume_are_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained(images, tmp_path / "run", epochs=1)
    text = complaint(["pretrain", "--resume", str(out), "--epochs", "5"], capsys, code=2)
    assert "--epochs" in text


def test_a_checkpoint_of_another_architecture(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained(images, tmp_path / "run", epochs=1)
    other = trained(images, tmp_path / "other", epochs=1, width=0.25)
    for path in (out / "checkpoints").iterdir():
        path.write_bytes((other / "checkpoints" / path.name).read_bytes())
    text = complaint(["pretrain", "--resume", str(out)], capsys, code=1)
    assert "width 0.25" in text
    assert "width 0.125" in text


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_with_a_pickle_payload_is_not_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    out = trained(images, tmp_path / "run", epochs=1)
    (checkpoint,) = (out / "checkpoints").iterdir()
    if form == "torch":
        torch.save({"method": Payload(tmp_path / "ran")}, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert "refused" in complaint(["pretrain", "--resume", str(out)], capsys, code=1)
    assert not (tmp_path / "ran").exists()


def test_evaluating_without_labels(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained(images, tmp_path / "run", epochs=1)
    write_images(tmp_path / "flat", 10)
    words = ["evaluate", "knn", str(out), str(tmp_path / "flat"), str(images), "--workers", "0"]
    assert "label" in complaint(words, capsys, code=1)


def test_bf16_is_refused_where_it_would_be_imitated(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    words = ["pretrain", str(images), "--out", str(tmp_path / "run"), *RECIPE, *tiny(), "--precision", "bf16"]
    assert "float32" in complaint(words, capsys, code=2)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal on POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_whole_checkpoint_and_says_how_to_go_on(
    images: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    words = [
        sys.executable,
        "-m",
        "co2ssl",
        "pretrain",
        str(images),
        "--out",
        str(out),
        *RECIPE,
        *tiny(epochs=100_000, workers=1),
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    # As a terminal and a cluster do it: to every process of the job, the data workers too.
    os.killpg(process.pid, number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert f"co2ssl pretrain --resume {out}" in text
    newest = max((out / "checkpoints").iterdir())
    saved = torch.load(newest, weights_only=True)
    assert saved["position"]["step"] > 0
    assert str(saved["position"]["step"]) in newest.name
