"""VOC07 classification from a VOCdevkit folder: the published pipelines, each from image to mean average precision."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from co2ssl.data.sources.protocol import Source
from co2ssl.data.squash import Squashed
from co2ssl.data.voc import VOC_CLASSES, VOCSplit, voc_split
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import EvaluationError, Features
from co2ssl.evaluate.svm import GOYAL_COSTS, PCL_COST, VISSL_COSTS, svm
from co2ssl.evaluate.svm_problem import Difficult
from co2ssl.evaluate.svm_search import Signs

Extract = Callable[[Source, int], Features]
"""(images, length their short side is brought to before the centre crop, in pixels) to their features."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One published way from an image to a cost.

    Attributes:
        squash: resized to a square, nothing cut away; else the centre crop.
        costs: the range for the cross-validation.
        fixed_cost: the cost, where it is not chosen.
    """

    squash: bool
    costs: tuple[float, ...] = VISSL_COSTS
    fixed_cost: float | None = None


PIPELINES = {
    # Resize 256, then 224 x 224: seen in vissl and fair_self_supervision_benchmark.
    "vissl": Pipeline(squash=True),
    "goyal": Pipeline(squash=True, costs=GOYAL_COSTS),
    # Resize 256, centre crop 224: seen in PCL. Which of the three CO2 used is not known.
    "pcl": Pipeline(squash=False, fixed_cost=PCL_COST),
}
"""By whose code it is: vissl and goyal choose the cost by cross-validation; pcl has C = 0.5."""

DEFAULT_PIPELINE = "vissl"


@dataclass(frozen=True, kw_only=True, eq=False)
class VOCFeatures:
    """What an SVM per class is fitted to and measured on.

    Attributes:
        train: features (N, F).
        train_targets: (N, 20), as in :class:`co2ssl.data.voc.VOCSplit`.
        test: features (M, F).
        test_targets: (M, 20).
        how: the pipeline, the year and the two splits, by name, for the result.
    """

    train: Features
    train_targets: Signs
    test: Features
    test_targets: Signs
    how: dict[str, str]


def voc_features(
    extract: Extract,
    path: str,
    *,
    image_size: int,
    resize: int,
    year: str = "2007",
    train_split: str = "trainval",
    test_split: str = "test",
    pipeline: str = DEFAULT_PIPELINE,
) -> VOCFeatures:
    """Features and targets of two splits of a VOC folder. Over several processes all of them call it.

    Args:
        extract: features of a source's images at ``image_size``; images that cannot be read may be missing.
        path: as for :func:`co2ssl.data.voc.voc_split`; "voc:" before it is passed over.
        image_size: side of what the network sees, in pixels; 224 in all published pipelines.
        resize: short side before the centre crop, or before both sides are brought to ``image_size``; 256 for 224.
        year: of the devkit.
        train_split: trainval as published.
        test_split: test as published.
        pipeline: one of :data:`PIPELINES`.

    Raises:
        DataError: a folder, list or annotation that cannot be used.
        EvaluationError: images that are in both splits.
        UsageError: an unknown pipeline.
    """
    chosen = _pipeline(pipeline)
    folder = path.removeprefix("voc:")
    train, test = (voc_split(folder, split, year=year) for split in (train_split, test_split))
    _check_apart(train, test)
    known, asked = (_features(extract, split.images, chosen, image_size, resize) for split in (train, test))
    return VOCFeatures(
        train=known,
        train_targets=train.targets[known.index.numpy()],
        test=asked,
        test_targets=test.targets[asked.index.numpy()],
        how={"pipeline": pipeline, "year": year, "train_split": train_split, "test_split": test_split},
    )


def evaluate_svm(
    given: VOCFeatures, *, difficult: Difficult = "left-out", seed: int = 0, jobs: int = 1, quiet: bool = True
) -> dict[str, object]:
    """Mean average precision of a linear SVM per class, as the pipeline of the features has it.

    Returns:
        What :func:`co2ssl.evaluate.svm.svm` returns, and ``pipeline``, ``year``, ``train_split``, ``test_split``.

    Arguments and errors as for :func:`co2ssl.evaluate.svm.svm`.
    """
    chosen = _pipeline(given.how["pipeline"])
    result = svm(
        given.train,
        given.train_targets,
        given.test,
        given.test_targets,
        class_names=VOC_CLASSES,
        costs=chosen.costs,
        fixed_cost=chosen.fixed_cost,
        difficult=difficult,
        seed=seed,
        jobs=jobs,
        quiet=quiet,
    )
    return {**result, **given.how}


def _features(extract: Extract, images: Source, pipeline: Pipeline, image_size: int, resize: int) -> Features:
    if pipeline.squash:
        # Already of the size of the crop, which then takes all of it.
        return extract(Squashed(images, resize, image_size), image_size)
    return extract(images, resize)


def _check_apart(train: VOCSplit, test: VOCSplit) -> None:
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise EvaluationError(
            f"{len(shared)} of the {len(test.ids)} images of {test.images.name} are in {train.images.name} as well "
            f"({shared[0]!r} is one): measure on a split that shares none with the one that is fitted, such as val "
            "with train"
        )


def _pipeline(name: str) -> Pipeline:
    if name not in PIPELINES:
        near = difflib.get_close_matches(name, PIPELINES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PIPELINES)}"
        raise UsageError(f"no SVM pipeline is called {name!r}; {hint}")
    return PIPELINES[name]
