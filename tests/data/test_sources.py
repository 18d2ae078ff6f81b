from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from co2ssl.data.sources import (
    ArraySource,
    BadImage,
    DataError,
    FolderSource,
    Source,
    Subset,
    demo,
    full_spec,
    open_source,
)
from co2ssl.errors import UserError


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (shade, 100, 200)).save(path, "PNG")
    return path


def names(source: FolderSource, root: Path) -> list[str]:
    return [os.path.relpath(source.describe(index), root) for index in range(len(source))]


def test_nested_mixed_and_odd_names(tmp_path: Path) -> None:
    wanted = ["a.jpg", "b/c/d/E.PNG", "b/x.JPeG", "émile/日本.webp", "z.tif", "with space.gif", "b/-1.pgm"]
    for shade, name in enumerate(wanted):
        put(tmp_path / name, shade)
    hidden = [".hidden.jpg", ".git/x.jpg", "b/._x.jpg", ".DS_Store", "b/Thumbs.db", "notes.txt", "archive.jpg.zip"]
    system = [f"b/{folder}/x.jpg" for folder in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")]
    for name in [*hidden, *system]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no")
    source = FolderSource(str(tmp_path))
    assert names(source, tmp_path) == sorted(wanted, key=os.fsencode)
    for index, name in enumerate(sorted(wanted, key=os.fsencode)):
        assert source.load(index)[0, 0].tolist() == [wanted.index(name), 100, 200]
    assert source.labels is None
    assert source.classes is None


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.png", "b/1.png", "a/9.png", "a/c/3.png", "a.png"):
        put(tmp_path / name)
    (tmp_path / "0link").symlink_to(tmp_path / "b")
    straight = names(FolderSource(str(tmp_path)), tmp_path)
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scan(path))))
    assert names(FolderSource(str(tmp_path)), tmp_path) == straight
    # Real folders win over links to them, whatever their names.
    assert straight == ["a.png", "a/9.png", "a/c/3.png", "b/1.png", "b/2.png"]


def test_links_are_followed_and_may_loop(tmp_path: Path) -> None:
    put(tmp_path / "data/a/1.png")
    put(tmp_path / "elsewhere/2.png")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/file.png").symlink_to(tmp_path / "elsewhere/2.png")
    (tmp_path / "data/broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "data/pipe.png")
    source = FolderSource(str(tmp_path / "data"))
    assert names(source, tmp_path / "data") == ["a/1.png", "b/2.png", "broken.png", "file.png"]
    with pytest.raises(BadImage, match="No such file"):
        source.load(2)


def test_links_to_themselves_and_to_pipes(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.png").symlink_to(tmp_path / "pipe")
    source = FolderSource(str(tmp_path))
    assert names(source, tmp_path) == ["1.png", "loop.png", "pipe.png"]
    with pytest.raises(BadImage, match="Too many levels"):
        source.load(1)
    with pytest.raises(BadImage, match="not a file"):
        source.load(2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "wb") as file:
        Image.new("RGB", (3, 2)).save(file, "PNG")
    source = FolderSource(str(tmp_path))
    assert source.load(0).shape == (2, 3, 3)
    assert os.fsencode(source.describe(0)).endswith(b"/caf\xe9.png")


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/sub/2.png", "cat/1.png", "eel/1.png"):
        put(tmp_path / name)
    source = FolderSource(str(tmp_path))
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    found = [source.classes[label] for label in source.labels]
    assert found == [name.split("/")[0] for name in names(source, tmp_path)]


def test_classes_are_sorted_by_name_and_files_by_path(tmp_path: Path) -> None:
    # "+" and "." come before "/", and "0" after it.
    for name in ("cat+dog/1.png", "cat/1.png", "cat/2.png", "cat0/1.png", "cat.old/1.png", "émile/1.png"):
        put(tmp_path / name)
    source = FolderSource(str(tmp_path))
    assert source.classes == ("cat", "cat+dog", "cat.old", "cat0", "émile")
    assert source.labels is not None
    found = [source.classes[label] for label in source.labels]
    assert found == ["cat+dog", "cat.old", "cat", "cat", "cat0", "émile"]
    assert found == [name.split("/")[0] for name in names(source, tmp_path)]


@pytest.mark.parametrize("layout", [["a/1.png", "b/1.png", "c.png"], ["a/1.png", "a/b/1.png"], ["1.png"]])
def test_ambiguous_folders_have_no_labels(tmp_path: Path, layout: list[str]) -> None:
    for name in layout:
        put(tmp_path / name)
    assert FolderSource(str(tmp_path)).labels is None


@pytest.mark.parametrize(
    ("train_folder", "val"),
    [
        *(("train", val) for val in ("val", "valid", "validation", "dev", "eval", "test", "testing")),
        ("Train", "Test"),
        ("Training", "Testing"),
        ("TRAIN", "val"),
    ],
)
def test_split_folders(tmp_path: Path, train_folder: str, val: str) -> None:
    for name in ("a/1.png", "b/1.png"):
        put(tmp_path / train_folder / name)
    for name in ("a/2.png", "b/2.png", "c/2.png"):
        put(tmp_path / val / name)
    train, measured = open_source(str(tmp_path)), open_source(str(tmp_path), "val")
    assert (len(train), train.classes) == (2, ("a", "b"))
    assert (len(measured), measured.classes) == (3, ("a", "b", "c"))
    # The same folders named outright, whatever the split.
    for split in ("train", "val"):
        assert open_source(str(tmp_path / val), split).fingerprint() == measured.fingerprint()
        assert open_source(str(tmp_path / train_folder), split).fingerprint() == train.fingerprint()


def test_of_several_parts_to_measure_on_one_is_taken(tmp_path: Path) -> None:
    for number, name in enumerate(["train", "Test", "Valid", "eval"], start=1):
        for image in range(number):
            put(tmp_path / name / f"{image}.png")
    assert len(open_source(str(tmp_path), "val")) == 3
    (tmp_path / "val").touch()
    assert len(open_source(str(tmp_path), "val")) == 3
    put(tmp_path / "valid/1.png")
    if len(list(tmp_path.iterdir())) == 6:
        # Where names that differ by case alone are two: the one in lower case.
        assert len(open_source(str(tmp_path), "val")) == 1


def test_a_class_called_train_is_not_a_split(tmp_path: Path) -> None:
    for name in ("train/1.png", "bus/1.png"):
        put(tmp_path / name)
    for split in ("train", "val"):
        assert open_source(str(tmp_path), split).classes == ("bus", "train")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path / "photos/1.png")
    (tmp_path / "empty/.hidden").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("1.txt", "2.txt", "3.mp4"):
        (tmp_path / "other" / name).touch()
    for spec, message in (
        (tmp_path / "photo", rf"no such folder: {tmp_path}/photo; did you mean {tmp_path}/photos\?"),
        (tmp_path / "nothing/like/it", r"no such folder: .*like/it$"),
        (tmp_path / "photos/1.png", r"1.png is a file; give the folder"),
        (tmp_path / "empty", r"no images in .*empty .*jpg jpeg png .* and found no files at all"),
        (tmp_path / "other", r"found 2 .txt, 1 .mp4"),
        ("dmeo", r"did you mean demo\?"),
        (f"imagnet:{tmp_path}", rf"did you mean imagenet:{tmp_path}\?"),
        (f"imagenet-100:{tmp_path}", rf"did you mean imagenet100:{tmp_path}\?"),
        (f"VOC:{tmp_path}", rf"did you mean voc:{tmp_path}\?"),
        ("python:CIFAR10", r"handed over by a Python program"),
        (f"cifar01:{tmp_path}", rf"unknown kind of data 'cifar01' .* did you mean cifar10:{tmp_path}\?"),
        (f"s3:{tmp_path}", r"known prefixes are cifar10, cifar100, imagenet, imagenet100, voc"),
        (f"cifar10:{tmp_path}/none", r"no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(str(spec))
    with pytest.raises(DataError, match="no split is called 'tset'"):
        open_source(str(tmp_path / "photos"), "tset")
    assert issubclass(DataError, UserError)


def test_a_folder_whose_name_has_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "trip:2024/1.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("trip:2024")) == 1


def test_a_name_that_means_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "trip:2024/1.png")
    monkeypatch.chdir(tmp_path)
    for spec, full in (
        ("demo", "demo"),
        ("python:CIFAR10", "python:CIFAR10"),
        ("photos", f"{tmp_path}/photos"),
        ("list.csv", f"{tmp_path}/list.csv"),
        ("cifar10:data", f"cifar10:{tmp_path}/data"),
        ("voc:/data", "voc:/data"),
        ("trip:2024", f"{tmp_path}/trip:2024"),
    ):
        assert full_spec(spec) == full


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("photos/1.png", "c10/train/a/1.png", "c10/test/a/1.png"):
        put(tmp_path / name)
    (tmp_path / "list.txt").write_text("photos/1.png\nphotos/1.png\n")
    for spec, count in (("~/photos", 1), ("~/list.txt", 2), ("cifar10:~/c10", 1)):
        source = open_source(spec)
        assert len(source) == count
        assert source.describe(0).startswith(f"{tmp_path}/")
        assert full_spec(spec) == spec.replace("~", str(tmp_path))
    with pytest.raises(DataError, match=rf"no such folder: {tmp_path}/photo; did you mean {tmp_path}/photos"):
        open_source("~/photo")


def test_only_what_torchvision_fetches_is_downloaded(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    for spec in ("demo", str(tmp_path), f"imagenet:{tmp_path}", f"imagenet100:{tmp_path}"):
        with pytest.raises(DataError, match=r"--download cannot fetch .*; it fetches cifar10:PATH, cifar100"):
            open_source(spec, download=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match=r"no permission .*locked"):
        FolderSource(str(tmp_path))


def test_fingerprint_follows_the_listing(tmp_path: Path) -> None:
    put(tmp_path / "ab/c.png")
    before = FolderSource(str(tmp_path)).fingerprint()
    assert FolderSource(str(tmp_path)).fingerprint() == before
    put(tmp_path / "d.png")
    assert FolderSource(str(tmp_path)).fingerprint() != before


def batches(folder: Path, split: str, labels: list[int], shade: int) -> None:
    data = np.full((len(labels), 3072), shade, dtype=np.uint8)
    data[:, 1024:2048] = 7
    (folder / split).write_bytes(pickle.dumps({"data": data, "labels": labels}))


def test_cifar10_batches_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        batches(folder, f"data_batch_{number}", [number, 0], shade=number)
    batches(folder, "test_batch", [9], shade=99)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{number}" for number in range(10)]}))
    with pytest.raises(DataError, match="damaged"):
        open_source(f"cifar10:{tmp_path}")
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for path in (tmp_path, folder):
        train, val = open_source(f"cifar10:{path}"), open_source(f"cifar10:{path}", "val")
        assert train.labels is not None
        assert train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
        assert train.load(4)[31, 0].tolist() == [3, 7, 3]
        assert (len(val), val.load(0).shape, val.classes) == (1, (32, 32, 3), train.classes)
        assert train.fingerprint() != val.fingerprint()


def test_cifar10_as_files(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "test/cat/1.png", "test/dog/1.png"):
        put(tmp_path / name)
    assert (len(open_source(f"cifar10:{tmp_path}")), len(open_source(f"cifar10:{tmp_path}", "val"))) == (3, 2)


def array_source(count: int) -> ArraySource:
    images: NDArray[np.uint8] = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 4, 3), np.uint8)
    return ArraySource("dots", images, np.arange(count) % 2, ("even", "odd"))


def test_what_is_a_source(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    dots = array_source(4)
    for source in (dots, Subset(dots, np.arange(2)), FolderSource(str(tmp_path))):
        assert isinstance(source, Source)
    for other in ([np.zeros((2, 2, 3))], str(tmp_path), tmp_path):
        assert not isinstance(other, Source)


def test_subset_renumbers() -> None:
    source = array_source(10)
    subset = Subset(source, np.array([7, 2, 3]))
    assert len(subset) == 3
    assert [int(subset.load(index)[0, 0, 0]) for index in range(3)] == [7, 2, 3]
    assert subset.describe(1) == source.describe(2) == "dots image 2"
    assert subset.labels is not None
    assert subset.labels.tolist() == [1, 0, 1]
    assert subset.classes == ("even", "odd")
    assert subset.fingerprint() != Subset(source, np.array([2, 7, 3])).fingerprint() != source.fingerprint()
    unlabelled = ArraySource("dots", source.images, None, None)
    assert Subset(unlabelled, np.array([1])).labels is None


def test_demo_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMO_IMAGES", {"train": 20, "val": 10})
    train, val = open_source("demo"), open_source("demo", "val")
    assert (len(train), len(val)) == (20, 10)
    assert train.load(0).shape == (demo.DEMO_SIZE, demo.DEMO_SIZE, 3)
    assert train.classes == val.classes
    assert train.labels is not None
    assert train.labels.shape == (20,)
    assert train.fingerprint() == open_source("demo").fingerprint() != val.fingerprint()
