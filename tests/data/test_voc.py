from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from co2ssl.data.sources.protocol import DataError, Source
from co2ssl.data.voc import VOC_CLASSES, voc_folder, voc_split
from tests.voc import Shown, annotation, write_voc

IMAGES: dict[str, Shown] = {
    "000001": [("dog", False), ("person", True), ("person", False)],
    "000002": [("dog", True), ("dog", True), ("car", True)],
    "000003": [],
    "000004": [("person", False)],
    "2008_000005": [("tvmonitor", False), ("aeroplane", True)],
}
SPLITS = {
    "train": ["000002", "000001"],
    "val": ["000003", "2008_000005"],
    "trainval": ["000001", "000002", "000003", "2008_000005"],
    "test": ["000004"],
    # The devkit's lists of one class, which are not lists of images to show.
    "dog_train": ["000001", "000002"],
}


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return write_voc(tmp_path, IMAGES, SPLITS)


def shown(targets: np.ndarray) -> dict[str, int]:
    return {name: int(target) for name, target in zip(VOC_CLASSES, targets, strict=True) if target >= 0}


def test_targets_say_what_is_shown_what_is_not_and_what_is_only_difficult(devkit: Path) -> None:
    found = voc_split(str(devkit), "train")
    assert found.ids == ("000002", "000001")
    assert found.targets.dtype == np.int8
    assert found.targets.shape == (2, 20)
    assert shown(found.targets[0]) == {"dog": 0, "car": 0}
    assert shown(found.targets[1]) == {"dog": 1, "person": 1}
    assert shown(voc_split(str(devkit), "val").targets[1]) == {"tvmonitor": 1, "aeroplane": 0}


def test_against_torchvision(devkit: Path, tmp_path: Path) -> None:
    theirs = VOCDetection(str(tmp_path), year="2007", image_set="trainval", download=False)
    ours = voc_split(str(tmp_path), "trainval")
    assert len(theirs) == len(ours.ids) == len(ours.images)
    for row, (image, labels) in enumerate(theirs):
        expected = dict.fromkeys(VOC_CLASSES, -1)
        # A Python loop over their dictionaries; what is difficult counts only where nothing else is.
        for found in labels["annotation"].get("object", []):
            expected[found["name"]] = max(expected[found["name"]], 1 - int(found["difficult"]))
        assert ours.targets[row].tolist() == list(expected.values())
        assert np.array_equal(ours.images.load(row), np.asarray(image))


def test_the_images_are_a_source_without_labels_of_its_own(devkit: Path) -> None:
    images = voc_split(str(devkit), "trainval").images
    assert isinstance(images, Source)
    assert images.labels is None
    assert images.classes is None
    assert images.name == f"{devkit} (trainval)"
    assert images.describe(3) == str(devkit / "JPEGImages" / "2008_000005.jpg")
    assert images.load(0).shape == (24, 36, 3)
    assert images.fingerprint() == voc_split(str(devkit), "trainval").images.fingerprint()
    assert images.fingerprint() != voc_split(str(devkit), "train").images.fingerprint()


def test_the_classes_are_the_devkits_twenty() -> None:
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_the_folder_may_be_the_year_the_devkit_or_what_holds_it(devkit: Path, tmp_path: Path) -> None:
    for path in (devkit, devkit.parent, tmp_path):
        assert Path(voc_folder(str(path))) == devkit
        assert voc_split(str(path), "test").ids == ("000004",)
    with pytest.raises(DataError, match=r"no VOC2012.*it has the year 2007"):
        voc_folder(str(tmp_path), year="2012")
    with pytest.raises(DataError, match=r"no VOC2012.*it has the year 2007"):
        voc_folder(str(devkit), year="2012")
    other = write_voc(tmp_path, {"a": []}, {"train": ["a"]}, year="2012")
    assert Path(voc_folder(str(tmp_path), year="2012")) == other


def test_a_folder_that_is_no_devkit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        voc_split(str(tmp_path / "nowhere"), "train")
    with pytest.raises(DataError, match="give the VOCdevkit folder"):
        voc_split(str(tmp_path), "train")


def test_an_object_without_a_word_on_difficulty_counts_and_parts_do_not(devkit: Path) -> None:
    text = "<annotation><object><name>person</name><part><name>head</name></part></object></annotation>"
    (devkit / "Annotations" / "000004.xml").write_text(text)
    assert shown(voc_split(str(devkit), "test").targets[0]) == {"person": 1}


def test_a_split_that_is_not_there(devkit: Path) -> None:
    with pytest.raises(DataError, match=r"trainvla\.txt.*did you mean trainval\?"):
        voc_split(str(devkit), "trainvla")
    with pytest.raises(DataError, match="there are test, train, trainval, val"):
        voc_split(str(devkit), "zzz")
    shutil.rmtree(devkit / "ImageSets")
    with pytest.raises(DataError, match="has its lists in"):
        voc_split(str(devkit), "train")


def test_a_list_that_cannot_be_used(devkit: Path) -> None:
    lists = devkit / "ImageSets" / "Main"
    (lists / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="names no images"):
        voc_split(str(devkit), "train")
    (lists / "train.txt").write_text("000001\n000002\n000001\n")
    with pytest.raises(DataError, match="names '000001' twice"):
        voc_split(str(devkit), "train")


def test_an_annotation_that_cannot_be_used(devkit: Path) -> None:
    path = devkit / "Annotations" / "000004.xml"
    path.write_text(annotation([("persson", False)]))
    with pytest.raises(DataError, match=r"000004\.xml has an object 'persson'.*did you mean person\?"):
        voc_split(str(devkit), "test")
    path.write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"000004\.xml is no XML"):
        voc_split(str(devkit), "test")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read the annotation .*000004\.xml"):
        voc_split(str(devkit), "test")


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path, {"000001": [("dog", False)]}, {"train": ["000001"]})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert voc_split("~/VOCdevkit", "train").ids == ("000001",)
