"""What ``evaluate all`` measures on given images, with which options, and why it leaves the rest out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from co2ssl.api.backbones import PIXELS, Representation
from co2ssl.api.images import open_images
from co2ssl.api.labels import label_list
from co2ssl.api.paper import IMAGENET, data_called, run_of
from co2ssl.api.protocols import labelled_pair
from co2ssl.config.messages import validated
from co2ssl.data.sources import DataError, Source
from co2ssl.data.voc import voc_folder, voc_split
from co2ssl.distributed import world_size
from co2ssl.errors import UsageError, UserError
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.base_options import EvaluationOptions, PairOptions
from co2ssl.evaluate.feature_key import source_hash
from co2ssl.evaluate.finetune import MOCO_V2_WEIGHT_DECAY, WEIGHT_DECAY
from co2ssl.evaluate.label_subsets import LabelSubset, draw_subset, listed_subset
from co2ssl.evaluate.options import NOT_FROM_FEATURES, OPTIONS

SHARES = ("1%", "10%")
"""Of the labels, as Table 2 has them."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row of the table to come; the published linear protocol has one for each learning rate.

    Attributes:
        title: of the row.
        protocol: its name.
        options: of each measurement: one for each seed, or one in all.
        random: what a seed decides, in words; empty: nothing.
        table: where the paper's number is looked up (:func:`co2ssl.evaluate.published.published`).
        departs: how it differs from the paper's protocol, in words.
    """

    title: str
    protocol: str
    options: tuple[EvaluationOptions, ...]
    random: str = ""
    table: str = ""
    departs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured, and what is not and why.

    Attributes:
        tasks: in the order of the table.
        left_out: protocol to reason.
        train: labelled images to learn from, or None.
        val: labelled images to measure on, or None.
    """

    tasks: list[Task] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    train: Source | None = None
    val: Source | None = None


def make_plan(representation: Representation, options: AllOptions) -> Plan:
    """What these images permit of this representation.

    Raises:
        UserError: labels that no protocol can use, no part of the images to measure on, or a VOC folder or a list of
            images that is not there.
    """
    devkit = _devkit(options.data)
    if devkit is None:
        plan = _of_labelled_images(representation, options)
    else:
        if options.voc is not None or options.val is not None:
            raise UsageError(f"{devkit} is a VOC folder, and its test split is measured on: leave --voc and --val out")
        reason = "images of VOC show several classes each, so these have no labels"
        plan = Plan(left_out=dict.fromkeys(("knn", "linear", "finetune", "supervised"), reason))
    devkit = devkit or (None if options.voc is None else str(options.voc))
    if devkit is None:
        plan.left_out["svm"] = "needs a VOC folder: --voc VOCDEVKIT"
        return plan
    for split in (options.voc_train, options.voc_test):
        # It comes last, after hours: whether it is there is found out now.
        voc_split(devkit.removeprefix("voc:"), split)
    changed = {"voc": devkit, "train_split": options.voc_train, "test_split": options.voc_test}
    svm = Task(
        title="svm",
        protocol="svm",
        options=_for_seeds("svm", options, changed),
        random="the order in which the solver visits the images",
        table="svm",
    )
    plan.tasks.append(svm)
    return plan


def _of_labelled_images(representation: Representation, options: AllOptions) -> Plan:
    """Everything but ``svm``."""
    home = representation.home
    train = open_images(options.data, "train", listing_folder=home)
    val = open_images(options.data if options.val is None else options.val, "val", listing_folder=home)
    if train.labels is not None and source_hash(train) == source_hash(val):
        raise UsageError(
            f"{train.name} has no part of its own to measure on: give a folder with train and val in it, or --val"
        )
    labelled_pair(PairOptions(train=train, val=val))
    pair = {"train": train, "val": val}
    plan = Plan(train=train, val=val)
    plan.tasks.append(Task(title="knn", protocol="knn", options=(_options("knn", options, pair),)))
    fast = Task(
        title="linear --fast",
        protocol="linear",
        options=_for_seeds("linear", options, {**pair, "fast": True}),
        random="the tenth of the images on which the penalty is chosen",
        table="linear",
        departs=("by SGD on random crops (--full), not by L-BFGS on features of centre crops",),
    )
    plan.tasks.append(fast)
    _add_published_linear(plan, representation, options, pair)
    _add_trainings(plan, representation, options, pair)
    return plan


def _add_published_linear(
    plan: Plan, representation: Representation, options: AllOptions, pair: Mapping[str, Source]
) -> None:
    if representation.name.startswith(PIXELS):
        plan.left_out["linear"] = "the published learning rates are for features of a network, not for pixels"
    elif not options.full:
        plan.left_out["linear"] = "the published form, 100 epochs of SGD, is measured with --full"
    elif options.batch_size is not None and len(pair["train"]) < options.batch_size:
        plan.left_out["linear"] = f"{len(pair['train'])} images are fewer than a batch of {options.batch_size}"
    else:
        published = Task(
            title="linear",
            protocol="linear",
            options=_for_seeds("linear", options, {**pair, "batch_size": options.batch_size}),
            random="crops, their order, and the classifiers' first weights",
            table="linear",
        )
        plan.tasks.append(published)


def _add_trainings(plan: Plan, representation: Representation, options: AllOptions, pair: Mapping[str, Source]) -> None:
    """``finetune`` and ``supervised``."""
    if representation.name.startswith(PIXELS):
        plan.left_out.update(dict.fromkeys(("finetune", "supervised"), "pixels have no network to train"))
        return
    run = run_of(representation)
    of_moco_v2 = run is not None and run.config.resolved.name.startswith("moco-v2")
    labelled = {share: _labelled(share, options, pair["train"]) for share in SHARES}
    for share, found in labelled.items():
        if isinstance(found, str):
            plan.left_out[f"finetune {share}"] = found
            continue
        changed = {"weight_decay": MOCO_V2_WEIGHT_DECAY if of_moco_v2 else WEIGHT_DECAY}
        plan.tasks.append(_training("finetune", share, found, options, pair, changed))
    if not options.supervised:
        plan.left_out["supervised"] = "the same architecture from fresh weights is trained with --supervised"
        return
    everything = LabelSubset(places=np.arange(len(pair["train"])), origin="all of them")
    plan.tasks.append(_training("supervised", None, everything, options, pair, {}))
    for share, found in labelled.items():
        if isinstance(found, str):
            plan.left_out[f"supervised {share}"] = found
        else:
            plan.tasks.append(_training("supervised", share, found, options, pair, {}))


def _training(
    protocol: str,
    share: str | None,
    labelled: LabelSubset,
    options: AllOptions,
    pair: Mapping[str, Source],
    changed: Mapping[str, Any],
) -> Task:
    settings = {**pair, **changed, "labels": share, "draws": options.seeds, "seed": options.seed}
    drawn = labelled.seed is not None
    # Of other images the paper's number says so itself.
    departs = drawn and data_called(pair["train"].classes) == IMAGENET
    if share is not None:
        settings["label_list"] = options.label_list
    if options.batch_size is not None:
        # Of few labelled images, all.
        settings["batch_size"] = min(options.batch_size, len(labelled) - len(labelled) % world_size())
    return Task(
        title=protocol if share is None else f"{protocol} {share}",
        protocol=protocol,
        options=(_options(protocol, options, settings),),
        random=f"{'which images have labels, ' * drawn}order and crops, first weights",
        table=protocol if share is None else f"{protocol}-{share}",
        departs=("which images had labels is not known; here they are drawn with a seed",) if departs else (),
    )


def _labelled(share: str, options: AllOptions, train: Source) -> LabelSubset | str:
    """The images with labels (drawn ones: of the first seed), or why there is no training on that share.

    Raises:
        UserError: a list that is not there, or is of other images.
    """
    path = label_list(train, options.label_list, share)
    if path is not None:
        return listed_subset(train, path, share)
    try:
        drawn = draw_subset(train, share, seed=options.seed)
    except UserError as error:
        return str(error).partition(": give")[0]
    if len(drawn) < 2 * world_size():
        return f"{len(drawn)} labelled images are fewer than two for each of {world_size()} processes"
    return drawn


def _for_seeds(protocol: str, options: AllOptions, changed: Mapping[str, Any]) -> tuple[EvaluationOptions, ...]:
    """The options of one measurement for each seed."""
    seeds = range(options.seed, options.seed + (options.seeds or 1))
    return tuple(_options(protocol, options, {**changed, "seed": seed}) for seed in seeds)


def _options(protocol: str, options: AllOptions, changed: Mapping[str, Any]) -> EvaluationOptions:
    """The protocol's own options: what was given for all of them, and what this measurement has of its own."""
    model = OPTIONS[protocol]
    unused = NOT_FROM_FEATURES if protocol in ("finetune", "supervised") else ()
    shared = {name: getattr(options, name) for name in EvaluationOptions.model_fields if name not in unused}
    return validated(model, {**shared, **changed})


def _devkit(data: object) -> str | None:
    """The VOC folder that the images are, or None."""
    if not isinstance(data, str | Path):
        return None
    text = str(data)
    if text.startswith("voc:"):
        return text
    try:
        voc_folder(text)
    except DataError:
        return None
    return text
