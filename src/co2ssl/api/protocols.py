"""One function for each protocol, from a representation and its options to a dict, and the table of them.

Over several processes every one calls the function: features and training are shared out; what follows from features
alone is computed by the main process and told to the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from co2ssl.api.backbones import Representation
from co2ssl.api.images import open_images
from co2ssl.api.machine import build_device
from co2ssl.config import RunOptions, usable_cores
from co2ssl.data.sources import Source
from co2ssl.distributed import gather, is_main
from co2ssl.evaluate.feature_key import network_hash
from co2ssl.evaluate.feature_store import FeatureStore
from co2ssl.evaluate.features import Features, labels_of, matched_labels
from co2ssl.evaluate.knn import knn
from co2ssl.evaluate.layers import at_layer
from co2ssl.evaluate.linear import linear_lbfgs
from co2ssl.evaluate.linear_sgd import LinearSettings, linear_sgd
from co2ssl.evaluate.options import EvaluationOptions, KnnOptions, LinearOptions, PairOptions, SvmOptions
from co2ssl.evaluate.resumable import Saved
from co2ssl.evaluate.voc07 import evaluate_svm, voc_features
from co2ssl.train.progress import warn

Measure: TypeAlias = Callable[[Representation, Any], dict[str, object]]

FEATURES = "features"
RESULTS = "evaluation"


def measure_knn(representation: Representation, options: KnnOptions) -> dict[str, object]:
    """``knn``: features of both sets, and the vote."""
    known, asked = labelled_pair(options, representation.home)
    train = features_for(representation, known, options, layer=options.layer)
    val = features_for(representation, asked, options, layer=options.layer)
    device = device_of(options)
    return by_main(
        lambda: {
            **knn(train, val, k=options.neighbours, temperature=options.temperature, device=device),
            "layer": options.layer,
        }
    )


def measure_linear(representation: Representation, options: LinearOptions) -> dict[str, object]:
    """``linear``: as published, on random crops; with ``fast``, on the features of centre crops."""
    known, asked = labelled_pair(options, representation.home)
    val = features_for(representation, asked, options, layer=options.layer)
    if options.fast:
        train = features_for(representation, known, options, layer=options.layer)
        return by_main(lambda: {**linear_lbfgs(train, val, seed=options.seed), "layer": options.layer})
    settings = LinearSettings(
        image_size=representation.image_size,
        layer=options.layer,
        lrs=options.lr,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        precision=representation.precision,
    )
    network = at_layer(representation.backbone.to(device_of(options)), options.layer)
    saved = None
    if representation.home is not None:
        key = _hash(network_hash(network), known.fingerprint(), asked.fingerprint(), repr(settings))
        saved = Saved(result_path(representation, "linear", options).with_suffix(".partial.ckpt"), key=key)
    return linear_sgd(
        network,
        known,
        val,
        settings,
        device=device_of(options),
        workers=workers_of(options),
        saved=saved,
        quiet=options.quiet,
    )


def measure_svm(representation: Representation, options: SvmOptions) -> dict[str, object]:
    """``svm``: features of two splits of a VOC folder, and a linear SVM per class."""

    def extract(source: Source, resize: int) -> Features:
        return features_for(representation, source, options, layer=options.layer, resize=resize)

    given = voc_features(
        extract,
        str(options.voc),
        image_size=representation.image_size,
        resize=representation.resize,
        year=options.year,
        train_split=options.train_split,
        test_split=options.test_split,
        pipeline=options.pipeline,
    )
    jobs = usable_cores() if options.jobs is None else options.jobs
    return by_main(
        lambda: {
            **evaluate_svm(given, difficult=options.difficult, seed=options.seed, jobs=jobs, quiet=options.quiet),
            "layer": options.layer,
        }
    )


MEASURES: Mapping[str, Measure] = {"knn": measure_knn, "linear": measure_linear, "svm": measure_svm}
"""The function of every protocol in ``co2ssl.evaluate.PROTOCOLS``."""


def labelled_pair(options: PairOptions, listing_folder: Path | None = None) -> tuple[Source, Source]:
    """The images to learn from and those to measure on, checked before anything long begins.

    Args:
        options: name them.
        listing_folder: where listings of folders are kept, or None.

    Raises:
        EvaluationError: no labels, one class, a class without training images, or classes that training lacks.
    """
    train = open_images(options.train, "train", listing_folder=listing_folder)
    val = open_images(options.val, "val", listing_folder=listing_folder)
    matched_labels(labels_of(train), labels_of(val))
    if train.fingerprint() == val.fingerprint():
        warn(
            f"{train.name} and {val.name} are the same images, so every image finds itself: "
            "this is no measure of accuracy"
        )
    return train, val


def features_for(representation: Representation, source: Source, options: EvaluationOptions, **how: Any) -> Features:
    """Features by the options: kept on the disk unless that is switched off, or there is no place for them.

    Args:
        representation: of what.
        source: the images.
        options: how.
        **how: ``layer`` and ``resize`` of :meth:`Representation.features`.
    """
    keep = options.cache and representation.home is not None
    return representation.features(
        source,
        device=device_of(options),
        workers=workers_of(options),
        dtype=options.feature_dtype,
        store=FeatureStore(_home(representation) / FEATURES) if keep else None,
        quiet=options.quiet,
        **how,
    )


def result_path(representation: Representation, protocol: str, options: EvaluationOptions) -> Path:
    """Where a result goes: ``evaluation/<protocol>.json`` in the run folder, or in a folder of what it has to beat."""
    name = "-".join(part for part in (protocol, options.result_name) if part)
    return _home(representation) / RESULTS / representation.kind / f"{name}.json"


def device_of(options: EvaluationOptions) -> torch.device:
    """The device that the options name.

    Raises:
        UsageError: there is none here.
    """
    return build_device(RunOptions.model_validate({"device": options.device}))


def workers_of(options: EvaluationOptions) -> int:
    """Processes that decode images."""
    return usable_cores() if options.workers is None else options.workers


def by_main(compute: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What the main process computes, on every process. It must be plain enough for JSON."""
    result = list(json.dumps(compute()).encode()) if is_main() else []
    told: dict[str, object] = json.loads(bytes(gather(torch.tensor(result, dtype=torch.uint8)).tolist()))
    return told


def _home(representation: Representation) -> Path:
    assert representation.home is not None, "asked for only where something is kept"
    return representation.home


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
