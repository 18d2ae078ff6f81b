from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

import co2ssl
from co2ssl.api import images, pretraining
from co2ssl.api.images import name_bad_images, open_images, spec_of
from co2ssl.api.runs import read_run
from co2ssl.data.sources import ArraySource, BadImage, DataError, DatasetSource, FolderSource, Source
from co2ssl.errors import UsageError, UserError
from tests.images import TINY, write_classes, write_images

QUIET: dict[str, Any] = {**TINY, "epochs": 1, "quiet": True, "recipe": "moco-small-32+co2"}


def weights(run: Path) -> bytes:
    return (run / "backbone.safetensors").read_bytes()


def test_what_is_taken_for_images(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=2, each=3)
    dataset = ImageFolder(tmp_path)
    for data in (tmp_path, str(tmp_path)):
        source = open_images(data)
        assert isinstance(source, FolderSource)
        assert spec_of(data, source) == str(tmp_path)
    source = open_images(dataset)
    assert isinstance(source, DatasetSource)
    assert spec_of(dataset, source) == "python:ImageFolder"
    assert open_images(source) is source


def test_a_dataset_trains_as_the_folder_it_reads(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", classes=2, each=12)
    from_folder = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "folder", **{**QUIET, "probe_every": 1})
    dataset = ImageFolder(tmp_path / "images")
    from_dataset = co2ssl.pretrain(dataset, out=tmp_path / "dataset", **{**QUIET, "probe_every": 1})
    assert weights(from_folder.folder) == weights(from_dataset.folder)
    assert read_run(tmp_path / "dataset").config.data.source == "python:ImageFolder"


def test_a_run_on_a_dataset_is_resumed_with_it(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", classes=2, each=12)
    dataset = ImageFolder(tmp_path / "images")
    run = co2ssl.pretrain(dataset, out=tmp_path / "run", **QUIET)
    # Of a run that is complete nobody asks for the images.
    co2ssl.pretrain(resume=run.folder, quiet=True)
    (run.folder / "backbone.safetensors").unlink()
    with pytest.raises(DataError, match=r"ImageFolder was handed over by a Python program; do it again: co2ssl"):
        co2ssl.pretrain(resume=run.folder, quiet=True)
    co2ssl.pretrain(dataset, resume=run.folder, quiet=True)
    (run.folder / "backbone.safetensors").unlink()
    (tmp_path / "images/class-1/000.png").unlink()
    with pytest.raises(UsageError, match=r"ImageFolder no longer holds the images .*24 then, 23 now"):
        co2ssl.pretrain(ImageFolder(tmp_path / "images"), resume=run.folder, quiet=True)


def test_the_source_of_the_page_your_own_images(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "your-own-images.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Frames" in block)
    made: dict[str, Any] = {}
    exec(code, made)
    frames = np.random.default_rng(0).integers(1, 256, (40, 20, 24, 3), dtype=np.uint8)
    frames[7] = 0
    np.save(tmp_path / "frames.npy", frames)
    source = made["Frames"](tmp_path / "frames.npy")
    assert isinstance(source, Source)
    run = co2ssl.pretrain(source, out=tmp_path / "run", **QUIET)
    assert "frame 7,a black frame" in (run.folder / "bad_images.csv").read_text()


class Squares:
    """A source of someone's own: squares of one colour, the third of which cannot be read."""

    name = "squares"
    classes = None
    labels = None

    def __len__(self) -> int:
        return 24

    def load(self, index: int) -> NDArray[np.uint8]:
        if index == 3:
            raise BadImage(self.describe(index), "smudged")
        return np.full((20, 20, 3), 10 * index, dtype=np.uint8)

    def describe(self, index: int) -> str:
        return f"square {index}"

    def fingerprint(self) -> str:
        return "24 squares"


def test_a_source_of_ones_own(tmp_path: Path) -> None:
    squares = Squares()
    assert isinstance(squares, Source)
    run = co2ssl.pretrain(squares, out=tmp_path / "run", **QUIET)
    assert (run.folder / "bad_images.csv").read_text().splitlines() == ["image,reason", "square 3,smudged"]
    assert not list(run.folder.glob("listing-*"))


def test_more_bad_images_are_allowed_where_one_says_so(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 24)
    for number in (0, 1, 2):
        (tmp_path / "images" / f"{number:03d}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"of the 24 images of .* more than 5%"):
        co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", **QUIET)
    co2ssl.pretrain(tmp_path / "images", out=tmp_path / "other", **QUIET, max_bad_share=0.2)


def test_a_bad_image_is_named_once_by_a_run_that_is_resumed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a relative path at first, and from another folder then."""
    write_images(tmp_path / "images", 24)
    (tmp_path / "images/007.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"of the 24 images of images cannot be read, more than 1%"):
        co2ssl.pretrain("images", out="run", **QUIET, max_bad_share=0.01)
    named = (tmp_path / "run/bad_images.csv").read_text().splitlines()
    assert named == ["image,reason", f"{tmp_path}/images/007.png,the file is empty"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    co2ssl.pretrain(resume="../run", quiet=True, max_bad_share=0.1)
    assert (tmp_path / "run/bad_images.csv").read_text().splitlines() == named


def test_a_full_disk_leaves_the_bad_images_that_were_named_before(tmp_path: Path) -> None:
    said: list[str] = []
    name_bad_images(tmp_path, [("first.png", "the file is empty")], said.append)
    before = (tmp_path / "bad_images.csv").read_bytes()
    many = [(f"{number:03d}.png", "not an image in a known format") for number in range(500)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*bad_images\.csv.*untouched"):
            name_bad_images(tmp_path, many, said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "bad_images.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bad_images.csv"]
    assert said == [
        f"1 unreadable image skipped, named in {tmp_path}/bad_images.csv:",
        "  first.png: the file is empty",
    ]


def test_bad_images_that_cannot_be_read_again_are_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_bad_images(tmp_path, [("first.png", "the file is empty")], lambda _: None)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", broken)
        with pytest.raises(UserError, match=r"cannot read .*bad_images\.csv: Input/output error"):
            name_bad_images(tmp_path, [("second.png", "the file is empty")], lambda _: None)


@pytest.mark.parametrize("spec", ["images", "./images/", "images/../images", "list.txt", "list.csv"])
def test_images_have_one_name_from_everywhere(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images", 2)
    (tmp_path / "list.txt").write_text("images/000.png\nimages/001.png\n")
    (tmp_path / "list.csv").write_text("path,label\nimages/000.png,a\nimages/001.png,b\n")
    monkeypatch.chdir(tmp_path)
    source = open_images(spec)
    names = [source.describe(index) for index in range(2)]
    assert names == [f"{tmp_path}/images/00{number}.png" for number in range(2)]
    again = spec_of(spec, source)
    monkeypatch.chdir("/")
    assert [open_images(again).describe(index) for index in range(2)] == names


def test_download_reaches_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    array = ArraySource("c10", np.zeros((24, 16, 16, 3), np.uint8), None, None)

    def opened(spec: str, split: str, *, download: bool, listing_folder: Path | None) -> Source:
        asked.append((spec, download))
        return array

    monkeypatch.setattr(images, "open_source", opened)
    run = co2ssl.pretrain(f"cifar10:{tmp_path}", out=tmp_path / "run", **QUIET, download=True)
    (run.folder / "backbone.safetensors").unlink()
    co2ssl.pretrain(resume=run.folder, quiet=True)
    assert asked == [(f"cifar10:{tmp_path}", True)] * 2


def test_the_cache_lies_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path, int]] = []

    def cached(source: Source, folder: Path, *, workers: int, say: Callable[[str], None]) -> Source:
        asked.append((source.name, folder, workers))
        return source

    monkeypatch.setattr(pretraining, "cached_images", cached)
    write_images(tmp_path / "images", 24)
    co2ssl.pretrain(tmp_path / "images", out=tmp_path / "without", **QUIET)
    assert asked == []
    co2ssl.pretrain(tmp_path / "images", out=tmp_path / "with", **QUIET, cache=True)
    assert asked == [(str(tmp_path / "images"), tmp_path / "with/cache", 0)]


def test_cached_images_train_the_same_backbone(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 40)
    Image.new("L", (9, 30), 77).save(tmp_path / "images/grey.png")
    (tmp_path / "images/007.png").write_bytes(b"no image")
    runs = [
        co2ssl.pretrain(tmp_path / "images", out=tmp_path / str(cache), **QUIET, cache=cache) for cache in (False, True)
    ]
    assert weights(runs[0].folder) == weights(runs[1].folder)
    assert (runs[0].folder / "bad_images.csv").read_text() == (runs[1].folder / "bad_images.csv").read_text()
