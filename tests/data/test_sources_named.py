from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, VOCDetection

from co2ssl.data.sources import DataError, FolderSource, named, open_source
from co2ssl.data.sources.named import imagenet100_classes


def put(path: Path, width: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 2)).save(path, "PNG")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes batches that are not the published ones."""
    for reader in (CIFAR10, CIFAR100):
        monkeypatch.setattr(reader, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)


def cifar100_batches(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, labels in (("train", [2, 0, 1]), ("test", [1])):
        data = np.arange(len(labels), dtype=np.uint8).repeat(3072).reshape(-1, 3072)
        content = {"data": data, "fine_labels": labels, "coarse_labels": [0] * len(labels)}
        (folder / part).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "baby", "can"]}))


@pytest.mark.usefixtures("unchecked")
def test_cifar100_by_torchvision(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    cifar100_batches(folder)
    for path in (tmp_path, folder):
        train, val = open_source(f"cifar100:{path}"), open_source(f"cifar100:{path}", "val")
        assert train.labels is not None
        assert train.labels.tolist() == [2, 0, 1]
        assert train.classes == ("apple", "baby", "can")
        assert train.load(2)[0, 0].tolist() == [2, 2, 2]
        assert (len(train), len(val), train.name) == (3, 1, "cifar100")


def test_damaged_batches_are_refused(tmp_path: Path) -> None:
    cifar100_batches(tmp_path / "cifar-100-python")
    with pytest.raises(DataError, match=r"CIFAR-100 in .* damaged; fetch it again with --download"):
        open_source(f"cifar100:{tmp_path}")


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar_as_files(tmp_path: Path, kind: str) -> None:
    for name in ("train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "test/cat/1.png", "test/dog/1.png"):
        put(tmp_path / name)
    assert (len(open_source(f"{kind}:{tmp_path}")), len(open_source(f"{kind}:{tmp_path}", "val"))) == (3, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty.* With --download, CIFAR-100? is fetched to "):
        open_source(f"{kind}:{tmp_path}/empty")


@pytest.mark.usefixtures("unchecked")
def test_cifar_is_fetched_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(self: Any) -> None:
        fetched.append(str(self.root))
        cifar100_batches(Path(self.root) / "cifar-100-python")

    monkeypatch.setattr(CIFAR100, "download", download)
    assert len(open_source(f"cifar100:{tmp_path}/new", download=True)) == 3
    assert fetched == [f"{tmp_path}/new"]


def test_what_cannot_be_fetched_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", unreachable)
    for spec in (f"cifar10:{tmp_path}", f"cifar100:{tmp_path}", f"voc:{tmp_path}/VOCdevkit/VOC2007"):
        with pytest.raises(DataError, match=rf"could not be downloaded to {tmp_path}.*Name or service not known"):
            open_source(spec, download=True)


def devkit(root: Path, year: str = "VOC2007") -> Path:
    """Three images, two of them for training."""
    folder = root / "VOCdevkit" / year
    for number in (1, 2, 3):
        put(folder / f"JPEGImages/00000{number}.jpg", width=number)
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/train.txt").write_text("000003\n000001\n")
    (folder / "ImageSets/Main/val.txt").write_text("000002\n")
    return folder


@pytest.mark.parametrize("year", ["VOC2007", "VOC2012"])
def test_voc_by_its_lists(tmp_path: Path, year: str) -> None:
    folder = devkit(tmp_path, year)
    for path in (tmp_path, tmp_path / "VOCdevkit", folder):
        train, val = open_source(f"voc:{path}"), open_source(f"voc:{path}", "val")
        assert [train.load(index).shape[1] for index in range(len(train))] == [3, 1]
        assert [val.load(index).shape[1] for index in range(len(val))] == [2]
        assert train.describe(0) == f"{folder}/JPEGImages/000003.jpg"
        # An image shows several things.
        assert train.labels is None
        assert train.classes is None
    (folder / "ImageSets/Main/val.txt").write_text("")
    with pytest.raises(DataError, match=r"list val\.txt .* is empty"):
        open_source(f"voc:{tmp_path}", "val")
    (folder / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(DataError, match="incomplete or damaged"):
        open_source(f"voc:{tmp_path}", "val")


def test_voc_without_a_year_and_with_two(tmp_path: Path) -> None:
    for spec, message in (
        (
            f"voc:{tmp_path}",
            rf"neither VOCdevkit/VOC2007 nor .* voc:{tmp_path}/VOCdevkit/VOC2007 --download",
        ),
        (f"voc:{tmp_path}/none", "no such folder"),
        (f"voc:{tmp_path}/VOCdevkit/VOC2012", "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(spec)
    devkit(tmp_path, "VOC2007")
    devkit(tmp_path, "VOC2012")
    with pytest.raises(DataError, match=rf"holds both years; say which: voc:{tmp_path}/VOCdevkit/VOC2007$"):
        open_source(f"voc:{tmp_path}")
    assert len(open_source(f"voc:{tmp_path}/VOCdevkit/VOC2012")) == 2


def test_voc_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, str]] = []

    def download(url: str, root: str, **options: object) -> None:
        fetched.append((url.rsplit("/", 1)[-1], str(root)))
        devkit(Path(root), "VOC2012")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", download)
    for _ in range(2):
        assert len(open_source(f"voc:{tmp_path}/VOCdevkit/VOC2012", download=True)) == 2
    assert fetched == [("VOCtrainval_11-May-2012.tar", str(tmp_path))]


def test_the_published_hundred_classes() -> None:
    classes = imagenet100_classes()
    assert len(classes) == len(set(classes)) == 100
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)
    # The first and the last of the published file, and some that other hundreds have and this one has not.
    assert {"n02869837", "n02090622"} <= set(classes)
    assert not {"n01440764", "n01443537"} & set(classes)


@pytest.mark.parametrize("val", ["val", "validation"])
def test_imagenet100_takes_its_classes_and_no_other(tmp_path: Path, val: str) -> None:
    classes = imagenet100_classes()
    for split in ("train", val):
        for name in (*classes, "n01440764", "n99999999"):
            put(tmp_path / split / name / "1.JPEG")
    put(tmp_path / "train" / classes[7] / "2.JPEG")
    train, measured = open_source(f"imagenet100:{tmp_path}"), open_source(f"imagenet100:{tmp_path}", "val")
    assert (len(train), len(measured)) == (101, 100)
    assert train.classes == measured.classes == classes
    assert train.labels is not None
    assert train.labels[7:9].tolist() == [7, 7]
    # The folder of one split, named outright.
    assert open_source(f"imagenet100:{tmp_path}/train").fingerprint() == train.fingerprint()
    for name in classes[:4]:
        (tmp_path / "train" / name / "1.JPEG").unlink()
        (tmp_path / "train" / name).rmdir()
    with pytest.raises(
        DataError, match=rf"train lacks 4 of the 100 .*: {classes[0]}, {classes[1]}, {classes[2]}, \.\.\."
    ):
        open_source(f"imagenet100:{tmp_path}")


def test_imagenet100_keeps_its_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "imagenet100_classes", lambda: ("n00000001", "n00000002"))
    for name in ("n00000001", "n00000002", "n00000003"):
        put(tmp_path / "data/train" / name / "1.png")
        os.utime(tmp_path / "data/train" / name, (1, 1))
    (tmp_path / "run").mkdir()
    open_source(f"imagenet100:{tmp_path}/data", listing_folder=tmp_path / "run")
    monkeypatch.setattr("co2ssl.data.sources.folder.list_images", None)
    # What happens in the folders of other classes does not matter.
    put(tmp_path / "data/train/n00000003/2.png")
    kept = open_source(f"imagenet100:{tmp_path}/data", listing_folder=tmp_path / "run")
    assert isinstance(kept, FolderSource)
    assert len(kept) == 2


def test_imagenet_has_a_thousand_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "IMAGENET_CLASSES", 3)
    for name in ("n00000001", "n00000002"):
        for split in ("train", "val"):
            put(tmp_path / split / name / "1.JPEG")
    with pytest.raises(DataError, match=r"train has 2 class folders .*ImageNet has 3; .*give .*train without a prefix"):
        open_source(f"imagenet:{tmp_path}")
    for split in ("train", "val"):
        put(tmp_path / split / "n00000003" / "1.JPEG")
    put(tmp_path / "train/loose.png")
    put(tmp_path / "train/thumbnails/1.png")
    assert open_source(f"imagenet:{tmp_path}").classes == ("n00000001", "n00000002", "n00000003")
    assert len(open_source(f"imagenet:{tmp_path}", "val")) == 3


def test_imagenet_that_is_not_unpacked_into_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    for kind in ("imagenet", "imagenet100"):
        with pytest.raises(DataError, match=r"val holds no class folders .*torchvision\.datasets\.ImageNet unpacks"):
            open_source(f"{kind}:{tmp_path}", "val")
        with pytest.raises(DataError, match="no such folder"):
            open_source(f"{kind}:{tmp_path}/none")
    # What that message promises.
    assert hasattr(torchvision.datasets.ImageNet, "parse_archives")
    assert VOCDetection._SPLITS_DIR == "Main"
