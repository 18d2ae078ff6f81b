"""One function for each protocol, from a representation and its options to a dict, and the table of them.

Over several processes every one calls the function: features and training are shared out; what follows from features
alone is computed by the main process and told to the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from co2ssl.api.backbones import Representation
from co2ssl.api.images import open_images
from co2ssl.api.labels import fresh_backbones, keep_drawn_lists, keep_first, require_network, subsets_of
from co2ssl.api.machine import build_device
from co2ssl.config import RunOptions, usable_cores, workers_per_process
from co2ssl.data.sources import FolderSource, Source
from co2ssl.distributed import from_main, is_main
from co2ssl.evaluate.base_options import EvaluationOptions, PairOptions
from co2ssl.evaluate.feature_key import network_hash, source_hash
from co2ssl.evaluate.feature_store import FeatureStore
from co2ssl.evaluate.features import EvaluationError, Features, labels_of, matched_labels, no_image_of
from co2ssl.evaluate.finetune import finetune, finetune_settings
from co2ssl.evaluate.knn import knn
from co2ssl.evaluate.label_draws import batch_that_fits, small_batch_note
from co2ssl.evaluate.label_subsets import LabelSubset
from co2ssl.evaluate.layers import at_layer
from co2ssl.evaluate.linear import linear_lbfgs
from co2ssl.evaluate.linear_sgd import LinearSettings, linear_sgd
from co2ssl.evaluate.options import (
    FinetuneOptions,
    KnnOptions,
    LabelledOptions,
    LinearOptions,
    SupervisedOptions,
    SvmOptions,
)
from co2ssl.evaluate.resumable import Saved
from co2ssl.evaluate.supervised import supervised, supervised_settings
from co2ssl.evaluate.voc07 import evaluate_svm, voc_features
from co2ssl.train.progress import warn
from co2ssl.version import __version__

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
            **knn(
                train, val, k=options.neighbours, temperature=options.temperature, device=device, quiet=options.quiet
            ),
            "layer": options.layer,
        }
    )


def measure_linear(representation: Representation, options: LinearOptions) -> dict[str, object]:
    """``linear``: as published, on random crops; with ``fast``, on the features of centre crops."""
    known, asked = labelled_pair(options, representation.home)
    val = features_for(representation, asked, options, layer=options.layer)
    if options.fast:
        train = features_for(representation, known, options, layer=options.layer)
        return by_main(
            lambda: {**linear_lbfgs(train, val, seed=options.seed, quiet=options.quiet), "layer": options.layer}
        )
    settings = LinearSettings(
        image_size=representation.image_size,
        layer=options.layer,
        lrs=options.lr,
        epochs=options.epochs,
        batch_size=options.batch_size or batch_that_fits(len(known)),
        seed=options.seed,
        precision=representation.precision,
    )
    network = at_layer(representation.backbone.to(device_of(options)), options.layer)
    key = (network_hash(network), repr(network), repr(settings))
    result = linear_sgd(
        network,
        known,
        val,
        settings,
        device=device_of(options),
        workers=workers_of(options),
        max_bad_share=options.max_bad_share,
        saved=saved_for(representation, "linear", options, known, asked, *key),
        quiet=options.quiet,
    )
    return {**result, "note": small_batch_note(len(known), options.batch_size)}


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


def measure_finetune(representation: Representation, options: FinetuneOptions) -> dict[str, object]:
    """``finetune``: copies of the network, each trained on the labels of a subset."""
    require_network(representation)
    known, asked = labelled_pair(options, representation.home)
    subsets = [subset for subset in subsets_of(known, options) if subset is not None]
    num_labelled = min(map(len, subsets))
    settings = finetune_settings(
        representation.image_size,
        backbone_lr=options.backbone_lr,
        head_lr=options.head_lr,
        **_training(representation, options, num_labelled),
    )
    key = (network_hash(representation.backbone), repr(representation.backbone), repr(settings))
    result = finetune(
        representation.backbone,
        known,
        asked,
        subsets,
        settings,
        **_running(representation, "finetune", options, known, asked, subsets, key),
    )
    return {**result, "labels": options.share, "note": small_batch_note(num_labelled, options.batch_size)}


def measure_supervised(representation: Representation, options: SupervisedOptions) -> dict[str, object]:
    """``supervised``: networks of the same architecture, trained from fresh weights; the first one is kept."""
    require_network(representation)
    known, asked = labelled_pair(options, representation.home)
    fresh = fresh_backbones(representation, options.arch)
    subsets = subsets_of(known, options)
    num_labelled = min(len(known if subset is None else subset) for subset in subsets)
    settings = supervised_settings(
        representation.image_size, lr=options.lr, **_training(representation, options, num_labelled)
    )
    network = fresh(options.seed)
    weights = network_hash(network)
    kept = (
        result_path(representation, "supervised", options).with_suffix(".safetensors") if representation.home else None
    )
    result = supervised(
        fresh,
        known,
        asked,
        subsets,
        settings,
        keep=partial(keep_first, kept),
        **_running(
            representation, "supervised", options, known, asked, subsets, (weights, repr(network), repr(settings))
        ),
    )
    # The weights that a run has were not looked at.
    return {
        **result,
        "labels": options.share,
        "note": small_batch_note(num_labelled, options.batch_size),
        "weights": weights,
        "trained": None if kept is None else str(kept),
    }


MEASURES: Mapping[str, Measure] = {
    "knn": measure_knn,
    "linear": measure_linear,
    "svm": measure_svm,
    "finetune": measure_finetune,
    "supervised": measure_supervised,
}
"""The function of every protocol in ``co2ssl.evaluate.PROTOCOLS`` but ``all``, which runs these."""


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
    if isinstance(train, FolderSource) and train.classes_without_images:
        raise EvaluationError(no_image_of(train.name, train.classes_without_images))
    matched_labels(labels_of(train), labels_of(val))
    if source_hash(train) == source_hash(val):
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
        max_bad_share=options.max_bad_share,
        quiet=options.quiet,
        **how,
    )


def result_path(representation: Representation, protocol: str, options: EvaluationOptions) -> Path:
    """Where a result goes: ``evaluation/<protocol>.json`` in the run folder, or in a folder of what it has to beat."""
    return _home(representation) / RESULTS / representation.kind / f"{result_name(protocol, options)}.json"


def result_name(protocol: str, options: EvaluationOptions) -> str:
    """The name of a result: the protocol, and what tells it from others of that."""
    looking = options.changed(image_size="image-size", precision="", feature_dtype="")
    return "-".join(part for part in (protocol, options.result_name, *looking) if part)


def saved_for(
    representation: Representation, protocol: str, options: EvaluationOptions, train: Source, val: Source, *key: str
) -> Saved | None:
    """Where a long measurement stands on the disk, as far as it is of these images and this key.

    Args:
        representation: where to look.
        protocol: its name.
        options: what the file is called by.
        train: what is learnt from: other pixels or labels of the same names are other images.
        val: what is measured on.
        *key: whatever else the numbers follow from.

    Returns:
        None where nothing is kept.
    """
    if representation.home is None:
        return None
    path = result_path(representation, protocol, options)
    parts = (__version__, source_hash(train), source_hash(val), *key)
    return Saved(path.with_suffix(".partial.ckpt"), key=_hash(*parts))


def _training(representation: Representation, options: LabelledOptions, num_labelled: int) -> dict[str, Any]:
    """Settings that fine-tuning and training from nothing have in common."""
    return {
        "resize": representation.resize,
        "precision": representation.precision,
        "epochs": options.epochs,
        "batch_size": options.batch_size or batch_that_fits(num_labelled),
        "weight_decay": options.weight_decay,
    }


def _running(
    representation: Representation,
    protocol: str,
    options: LabelledOptions,
    known: Source,
    asked: Source,
    subsets: Sequence[LabelSubset | None],
    key: Sequence[str],
) -> dict[str, Any]:
    """Where and how a training on labels runs; its drawn subsets are written down."""
    if representation.home is not None:
        keep_drawn_lists(result_path(representation, protocol, options), known, subsets)
    parts = (str(None if subset is None else subset.described()) for subset in subsets)
    return {
        "seed": options.seed,
        "device": device_of(options),
        "workers": workers_of(options),
        "max_bad_share": options.max_bad_share,
        "saved": saved_for(representation, protocol, options, known, asked, *key, str(options.seed), *parts),
        "quiet": options.quiet,
    }


def device_of(options: EvaluationOptions) -> torch.device:
    """The device that the options name.

    Raises:
        UsageError: there is none here.
    """
    return build_device(RunOptions.model_validate({"device": options.device}))


def workers_of(options: EvaluationOptions) -> int:
    """Processes that decode images."""
    return workers_per_process() if options.workers is None else options.workers


def by_main(compute: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What the main process computes, on every process. It must be plain enough for JSON.

    Raises:
        EvaluationError: it cannot be computed; on every process, so that none waits for the others.
    """
    outcome: dict[str, Any] = {}
    if is_main():
        try:
            outcome = {"result": compute()}
        except EvaluationError as error:
            outcome = {"error": str(error)}
    told = from_main(outcome)
    if "error" in told:
        raise EvaluationError(told["error"])
    result: dict[str, object] = told["result"]
    return result


def _home(representation: Representation) -> Path:
    assert representation.home is not None, "asked for only where something is kept"
    return representation.home


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
