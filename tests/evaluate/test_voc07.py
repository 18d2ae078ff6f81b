from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from co2ssl.data.sources import Source
from co2ssl.data.voc import VOC_CLASSES, voc_split
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import EvaluationError, Features, raw_pixels
from co2ssl.evaluate.svm import GOYAL_COSTS, VISSL_COSTS, svm
from co2ssl.evaluate.voc07 import evaluate_svm, voc_features
from tests.voc import Shown, write_voc

SIZE, RESIZE = 6, 8


def pixels(source: Source, resize: int) -> Features:
    return raw_pixels(source, image_size=SIZE, resize=resize)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Thirty images; the colour of each says whether it shows a person, a dog and a car."""
    random = np.random.default_rng(0)
    images: dict[str, Shown] = {}
    for number in range(30):
        shown = [name for name, share in (("person", 0.6), ("dog", 0.4), ("car", 0.4)) if random.random() < share]
        difficult = [("sofa", True)] if number % 5 == 0 else []
        images[f"{number:06}"] = [*((name, False) for name in shown), *difficult]
    names = list(images)
    splits = {"trainval": names[:20], "train": names[:10], "test": names[20:]}
    return write_voc(tmp_path, images, splits)


def measure(devkit: Path, **changed: Any) -> dict[str, Any]:
    given = voc_features(pixels, str(devkit), image_size=SIZE, resize=RESIZE, **changed)
    return evaluate_svm(given)


def test_from_a_folder_to_average_precision(devkit: Path) -> None:
    result = measure(devkit)
    assert set(result["classes"]) == {"person", "dog", "car"}
    assert set(result["left_out"]) == set(VOC_CLASSES) - set(result["classes"])
    assert (result["num_train"], result["num_val"]) == (20, 10)
    # Each class has a colour channel of its own.
    assert result["map_area"] > 0.95
    assert result["cross_validation"]["costs"] == list(VISSL_COSTS)
    assert (result["pipeline"], result["year"]) == ("vissl", "2007")
    assert (result["train_split"], result["test_split"]) == ("trainval", "test")
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(
    ("pipeline", "squash", "settings"),
    [
        ("vissl", True, {"costs": VISSL_COSTS}),
        ("goyal", True, {"costs": GOYAL_COSTS}),
        ("pcl", False, {"fixed_cost": 0.5}),
    ],
)
def test_each_pipeline_by_hand(
    devkit: Path, pipeline: str, squash: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pixels of twenty images take high costs to the end of their iterations, on both sides of the comparison.
    monkeypatch.setattr("co2ssl.evaluate.svm_search.MOST_ITERATIONS", 50)
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, Resize

    published = Compose([Resize(RESIZE), Resize((SIZE, SIZE)) if squash else CenterCrop(SIZE)])
    given = voc_features(pixels, str(devkit), image_size=SIZE, resize=RESIZE, pipeline=pipeline)
    for found, split in ((given.train, "trainval"), (given.test, "test")):
        source = voc_split(str(devkit), split).images
        for row in range(len(source)):
            image = np.asarray(published(Image.fromarray(source.load(row)))).transpose(2, 0, 1)
            mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
            # Resizing may round otherwise by a level or two of 255.
            assert np.abs(found.features[row].numpy() - expected.ravel()).max() < 2.5 / 255 / 0.22
    train, test = (voc_split(str(devkit), split).targets for split in ("trainval", "test"))
    expected_result = svm(given.train, train, given.test, test, class_names=VOC_CLASSES, **settings)
    result = evaluate_svm(given)
    assert result["classes"] == expected_result["classes"]
    assert result["pipeline"] == pipeline


def test_targets_follow_the_images_that_could_be_read(devkit: Path) -> None:
    def some(source: Source, resize: int) -> Features:
        found = pixels(source, resize)
        return found.rows((found.index != 3).nonzero().flatten())

    given = voc_features(some, str(devkit), image_size=SIZE, resize=RESIZE)
    everything = voc_split(str(devkit), "trainval").targets
    assert np.array_equal(given.train_targets, np.delete(everything, 3, axis=0))
    assert len(given.test) == len(given.test_targets) == 9


def test_the_prefix_of_the_command_line_is_passed_over(devkit: Path) -> None:
    given = voc_features(pixels, f"voc:{devkit}", image_size=SIZE, resize=RESIZE)
    assert len(given.train) == 20


def test_images_in_both_splits_are_an_error(devkit: Path) -> None:
    with pytest.raises(EvaluationError, match=r"10 of the 10 images of .*\(train\) are in .*\(trainval\) as well"):
        measure(devkit, test_split="train")


def test_an_unknown_pipeline(devkit: Path) -> None:
    with pytest.raises(UsageError, match=r"'visl'; did you mean vissl\?"):
        measure(devkit, pipeline="visl")
    with pytest.raises(UsageError, match="there are vissl, goyal, pcl"):
        measure(devkit, pipeline="zzz")
