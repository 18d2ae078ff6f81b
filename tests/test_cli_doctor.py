"""``co2ssl doctor`` as a person meets it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from co2ssl.cli import main
from tests.data.odd_files import write_odd_files
from tests.images import tiny, write_classes, write_images

QUICK = ["--recipe", "moco-small-32+co2", *tiny(), "--seconds", "0.05", "--sample", "10000"]


def run(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> tuple[str, str]:
    """What it prints on stdout and stderr; it must exit with ``code``, without a traceback."""
    capsys.readouterr()
    try:
        exit_code: object = main(["doctor", *words])
    except SystemExit as stop:
        exit_code = stop.code
    said = capsys.readouterr()
    assert exit_code == code, said
    assert "Traceback" not in said.err
    return said.out, said.err


def test_what_a_person_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(tmp_path, classes=2, each=20)
    text, error = run([str(tmp_path), *QUICK], capsys)
    assert error == ""
    for line in (
        rf"{re.escape(str(tmp_path))}: 40 images, about [\d.]+ kB in files; all looked at",
        "  formats   PNG 40",
        "  channels  RGB 40",
        "  sizes     median 20 x 20 px, from 20 x 20 to 20 x 20",
        r"  classes   2, from 20 images \(class-0\) to 20 \(class-0\)",
        "  bad       none",
        "  copies    none",
        "  near      none",
        r"moco-small-32\+co2: resnet18, 16 px, batch 8, float32, on cpu with \d+ cores? and 0 workers",
        r"  disk read +[\d,.]+ +[\d.]+",
        r"  decode +[\d,.]+ +[\d.]+",
        r"  views +[\d,.]+ +[\d.]+",
        r"  model step +[\d,.]+ +[\d.]+",
        r"  all of it +[\d,.]+ +[\d.]+   waits for data \d+ % of the time",
        r"what binds: the (decode|views|model step) \(.+\)",
        "  change: .+",
        r"prediction: [\d.]+ (s|min) an epoch, [\d.]+ (s|min) for 2 epochs, besides probes and checkpoints",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), f"{line}\n{text}"
    assert "copy" not in text.split("model step")[0].split("part")[1]
    if sys.platform.startswith("linux"):
        assert re.search(r"^peak memory: [\d.]+ [MG]B of this machine's [\d.]+ [GT]B$", text, re.MULTILINE)


def test_every_bad_file_and_every_copy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, bad = write_odd_files(tmp_path)
    write_images(tmp_path / "more", 3, side=60, seed=77)
    (tmp_path / "more/the same.png").write_bytes((tmp_path / "more/001.png").read_bytes())
    with Image.open(tmp_path / "more/002.png") as image:
        image.resize((45, 45)).save(tmp_path / "more/smaller.jpg", quality=75)
    text, _ = run([str(tmp_path), *QUICK], capsys)
    assert f"  bad       {len(bad)} cannot be read\n" in text
    assert f"{tmp_path}/bad/zero bytes.jpg: the file is empty" in text
    assert f"{tmp_path}/bad/text.jpg: not an image in a known format" in text
    assert "bad-\\udcff\\udcfe.png" in text
    assert "skips them" in text
    found = json.loads(run([str(tmp_path), "--json", *QUICK], capsys)[0])
    images = found["images"]
    assert {os.path.relpath(which, tmp_path) for which, _ in images["bad"]} == bad
    assert [f"{tmp_path}/more/the same.png", f"{tmp_path}/more/001.png"] in images["exact_copies"]
    assert [f"{tmp_path}/more/smaller.jpg", f"{tmp_path}/more/002.png"] in images["near_copies"]
    assert images["channels"]["CMYK"] == 1
    assert images["images"] == images["looked_at"]
    assert found["problem"] is None


def test_more_than_ten_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, 40)
    for number in range(13):
        (tmp_path / f"{number:03d}.png").write_bytes(b"")
    text, _ = run([str(tmp_path), *QUICK, "--max-bad-share", "0.5"], capsys)
    assert text.count("the file is empty") == 10
    assert "and 3 more (--json names all)" in text


def test_a_sample_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, 40)
    text, _ = run([str(tmp_path), *QUICK[:-2], "--sample", "32", "--seed", "3"], capsys)
    assert "40 images" in text
    assert "; 32, drawn with seed 3, looked at" in text


def test_json_holds_the_whole_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, 40)
    out, error = run([str(tmp_path), "--json", *QUICK, "--batch-size", "16"], capsys)
    assert error == ""
    found: dict[str, Any] = json.loads(out)
    assert found["data"] == str(tmp_path)
    assert found["recipe"]["name"] == "moco-small-32+co2"
    assert (found["recipe"]["batch_size"], found["recipe"]["width"]) == (16, 0.125)
    assert found["options"]["workers"] == 0
    on_disk = [path.stat().st_size for path in tmp_path.iterdir()]
    assert found["images"]["file_bytes"]["sum_of_looked_at"] == sum(on_disk)
    assert found["images"]["file_bytes"]["largest"] == max(on_disk)
    assert set(found["measured"]) == {"disk", "decode", "augment", "copy", "step", "together"}
    assert found["measured"]["disk"]["bytes"] > 0
    for part in ("disk", "decode", "augment", "step"):
        rate = found["measured"][part]["images_per_second"]
        assert found["milliseconds_per_image"][part] == pytest.approx(1000 / rate)
    assert found["measured"]["copy"] is None
    assert found["binding"] in ("decode", "augment", "step")
    assert found["advice"]
    prediction = found["prediction"]
    assert prediction["seconds"] == pytest.approx(2 * prediction["epoch_seconds"])
    assert prediction["device_bytes"] is None


def test_images_that_pretrain_would_refuse_are_one_message_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, 6)
    text, _ = run([str(tmp_path), *QUICK], capsys, code=1)
    assert "problem: pretrain would refuse: 6 images are fewer than one batch of 8" in text
    assert "prediction" not in text
    assert (
        "problem: pretrain would refuse: 6 images are too few"
        in run([str(tmp_path), "--seconds", "0.01"], capsys, code=1)[0]
    )
    for number in range(6):
        (tmp_path / f"{number:03d}.png").write_bytes(b"")
    text, _ = run([str(tmp_path), *QUICK, "--batch-size", "4"], capsys, code=1)
    assert "100.0 % of the images cannot be read" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--batch-sise", "8"], 2, "--batch-size"),
        (["--sampel", "8"], 2, "--sample"),
        (["--recipe", "moko-v2"], 2, "moco-v2"),
        (["--sample", "0"], 2, "at least 1 image"),
        (["--seconds", "-1"], 2, "more than 0 seconds"),
        (["--batch-size", "-3"], 2, "--batch-size"),
        (["--device", "cuda"], 2, "--device cpu"),
    ],
)
def test_wrong_usage(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_images(tmp_path, 10)
    assert said in run([str(tmp_path), *words], capsys, code=code)[1]


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    error = run([str(tmp_path / "photo"), *QUICK], capsys, code=1)[1]
    assert "no such folder" in error
    assert "photos" in error
    assert "needs" in run([], capsys, code=2)[1] or "required" in run([], capsys, code=2)[1].lower()


def test_help_shows_the_defaults_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(["--recipe", "simclr-small-32", "--help"], capsys)
    assert "the defaults are those of simclr-small-32." in " ".join(text.split())
    assert "co2ssl doctor photos/" in text


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals are POSIX's")
def test_progress_is_for_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 40)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["doctor", str(tmp_path), *QUICK]) == 0
        terminal.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "looking at the images: 40 of 40" in shown or "measuring" in shown
