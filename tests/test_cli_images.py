"""Images as people have them, through the command line."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from co2ssl.cli import main
from co2ssl.data.decoding import read_image
from co2ssl.data.sources import FolderSource, files
from tests.data.odd_files import write_odd_files
from tests.images import tiny, write_classes, write_images

RECIPE = ["--recipe", "moco-small-32+co2"]


def named(run: Path) -> dict[str, str]:
    """Bad images and the reasons, as the run names them."""
    with (run / "bad_images.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "reason"]
    assert len(rows) == len({image for image, _ in rows})
    return dict(rows)


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 1) -> str:
    capsys.readouterr()
    assert main(words) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.fixture
def vanishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that is there when the folder is listed, and gone once the first image is read."""
    path = tmp_path / "images" / "a" / "000.png"

    def read(name: str) -> NDArray[np.uint8]:
        path.unlink(missing_ok=True)
        return read_image(name)

    monkeypatch.setattr(files, "read_image", read)
    return "a/000.png"


def test_every_kind_of_odd_file_trains_and_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vanishing: str
) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    good, bad = write_odd_files(images)
    bad.add(vanishing)
    # Whole batches, so that one epoch takes every image.
    write_images(images / "more", -len(FolderSource(str(images))) % 8)
    source = FolderSource(str(images))
    there = {os.path.relpath(source.describe(index), images) for index in range(len(source))}
    assert good | bad <= there
    assert not {name for name in there if "MACOSX" in name or name.startswith((".", "pipe"))}
    words = ["pretrain", str(images), "--out", str(run), *RECIPE, *tiny(epochs=1, workers=2, probe_every=1)]
    assert main(words) == 0
    reasons = {os.path.relpath(image, images): reason for image, reason in named(run).items()}
    assert set(reasons) == bad
    for name, reason in (
        ("bad/zero bytes.jpg", "the file is empty"),
        ("bad/text.jpg", "not an image in a known format"),
        ("bad/truncated.jpg", "cannot be decoded: image file is truncated"),
        ("bad/bomb.png", "pixels"),
        ("links/itself.png", "Too many levels of symbolic links"),
        ("links/nowhere.png", "No such file or directory"),
        (vanishing, "No such file or directory"),
    ):
        assert reason in reasons[name]
    assert f"{len(bad)} unreadable images skipped" in capsys.readouterr().err
    # Two classes, for a measure; the odd ones are among what is learnt from.
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled/odd").symlink_to(images)
    write_images(tmp_path / "labelled/plain", 20, seed=9)
    measured = ["evaluate", "knn", str(run), str(tmp_path / "labelled"), str(tmp_path / "labelled")]
    assert main([*measured, "--workers", "2", "--device", "cpu"]) == 0
    assert f"of {len(there) - len(bad) + 20} images" in capsys.readouterr().out


def test_odd_images_come_as_pillow_reads_them(tmp_path: Path) -> None:
    good, _ = write_odd_files(tmp_path)
    for name in sorted(good):
        if name == "kinds/16 bit.png":
            expected = np.asarray(Image.open(tmp_path / name)).astype(int)[..., None].repeat(3, axis=2) // 257
        else:
            with Image.open(tmp_path / name) as image:
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
        found = read_image(str(tmp_path / name))
        assert found.shape == expected.shape, name
        assert np.abs(found - expected).mean() < 0.3, name


def test_too_many_bad_images_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    write_images(images, 40)
    for number in (3, 14, 15):
        (images / f"{number:03d}.png").write_bytes(b"no image")
    words = ["pretrain", str(images), "--out", str(run), *RECIPE, *tiny()]
    text = complaint(words, capsys)
    assert "3 of the 40 images" in text
    assert "more than 5%" in text
    assert "--max-bad-share" in text
    assert len(named(run)) == 3
    assert "more than 2.5%" in complaint(["pretrain", "--resume", str(run), "--max-bad-share", "0.025"], capsys)
    assert main(["pretrain", "--resume", str(run), "--max-bad-share", "0.1"]) == 0
    assert len(named(run)) == 3
    assert 'max_bad_share: {value: 0.1, from: "option"}' in (run / "config.yaml").read_text()
    assert (run / "backbone.safetensors").is_file()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--max-bad-share", "none"])
    assert stop.value.code == 2
    assert "--max-bad-share" in complaint([*words, "--max-bad-share", "1.5"], capsys, code=2)


def test_probes_leave_bad_images_to_the_limit_of_the_run(tmp_path: Path) -> None:
    """Among few images one is soon more than a twentieth, and what is allowed is said once, of all images."""
    images, run = tmp_path / "images", tmp_path / "run"
    write_classes(images, classes=2, each=20)
    for name in ("class-0/003.png", "class-1/004.png", "class-1/015.png", "class-0/016.png"):
        assert (images / name).is_file()
        (images / name).write_bytes(b"no image")
    words = ["pretrain", str(images), "--out", str(run), *RECIPE, *tiny(), "--probe-every", "1"]
    assert main([*words, "--max-bad-share", "0.2"]) == 0
    probes = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"probe"' in line]
    assert probes
    assert all('"spread"' in line and '"top1"' in line for line in probes)
    assert (run / "report.html").is_file()


def test_a_resumed_run_names_what_it_met_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    write_images(images, 48)
    (images / "007.png").write_bytes(b"no image")
    assert main(["pretrain", str(images), "--out", str(run), *RECIPE, *tiny(epochs=1)]) == 0
    with (run / "bad_images.csv").open("a") as file:
        file.write("met-before.png,mended since\n")
    # Nothing is left to do but to write the backbone, and nothing is forgotten.
    (run / "backbone.safetensors").unlink()
    assert main(["pretrain", "--resume", str(run)]) == 0
    assert set(named(run)) == {str(images / "007.png"), "met-before.png"}


def test_a_list_trains_and_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "images", classes=2, each=12)
    rows = sorted((tmp_path / "images").rglob("*.png"))
    lines = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{'train' if i % 3 else 'val'}" for i, path in enumerate(rows)
    ]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in rows))
    monkeypatch.chdir(tmp_path)
    for kind, count in (("txt", 24), ("csv", 16)):
        assert main(["pretrain", f"list.{kind}", "--out", kind, "--quiet", *RECIPE, *tiny(epochs=1)]) == 0
        config = Path(kind, "config.yaml").read_text()
        assert f"source: {tmp_path}/list.{kind}\n" in config
        assert f"num_images: {count}\n" in config
    monkeypatch.chdir("/")
    # Otherwise all is done, and the images are not asked for.
    (tmp_path / "csv" / "backbone.safetensors").unlink()
    assert main(["pretrain", "--resume", str(tmp_path / "csv"), "--quiet"]) == 0
    capsys.readouterr()
    words = ["evaluate", "knn", str(tmp_path / "csv"), *[str(tmp_path / "list.csv")] * 2, "--workers", "0"]
    assert main(words) == 0
    assert "of 8 images, 2 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("list.csv", "list.csv, line 3: no split is called 'tset'; did you mean test?"),
        ("cifar01:images", "did you mean cifar10:images?"),
        ("voc:images", "say which: voc:"),
        ("imagenet100:images", "holds no class folders"),
        ("cifar10:images/none", "--download"),
        ("image", "no such folder: image"),
    ],
)
def test_images_that_cannot_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    write_images(tmp_path / "images", 2)
    (tmp_path / "list.csv").write_text("path,split\nimages/000.png,train\nimages/001.png,tset\n")
    monkeypatch.chdir(tmp_path)
    assert message in complaint(["pretrain", spec, "--out", "run", *RECIPE, *tiny()], capsys)
    assert not Path("run").exists()


def test_a_folder_cannot_be_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 2)
    words = ["pretrain", str(tmp_path / "images"), "--out", str(tmp_path / "run"), "--download", *RECIPE, *tiny()]
    assert "--download cannot fetch" in complaint(words, capsys)


def test_the_listing_is_kept_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    write_images(images / "deep", 24)
    for folder in (images, images / "deep"):
        os.utime(folder, (1, 1))
    assert main(["pretrain", str(images), "--out", str(run), "--quiet", *RECIPE, *tiny(epochs=1)]) == 0
    assert len(list(run.glob("listing-*.npz"))) == 1
    (run / "backbone.safetensors").unlink()
    monkeypatch.setattr("co2ssl.data.sources.folder.list_images", None)
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9")))
    write_images(images, 40)
    (images / "003.png").write_bytes(b"no image")
    run = tmp_path / "run"
    assert main(["pretrain", str(images), "--out", str(run), *RECIPE, *tiny(epochs=1)]) == 0
    assert set(named(run)) == {str(images / "003.png")}
    (run / "backbone.safetensors").unlink()
    assert main(["pretrain", "--resume", str(run)]) == 0
