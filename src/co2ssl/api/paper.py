"""The number that a paper prints, beside one of ours: with words where the two are not of the same thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from co2ssl.api.backbones import DEFAULT_WEIGHTS, IMAGE_SIZE, PIXELS, TORCHVISION, UNTRAINED, WEIGHTS, Representation
from co2ssl.api.runs import Run, read_run
from co2ssl.config import load_recipe
from co2ssl.data.sources.named import IMAGENET_CLASSES, imagenet100_classes
from co2ssl.evaluate.label_draws import BATCH_SIZE
from co2ssl.evaluate.label_share import DRAWS
from co2ssl.evaluate.published import PublishedTable, published

SUPERVISED = "supervised"
RESNET50_WEIGHTS = 23_508_032
"""Of a ResNet-50 without its classifier."""
VOC07_IMAGES = (5_011, 4_952)
"""Of trainval and test: what tells VOC07 from other images in a folder of its form."""
IMAGENET, IMAGENET100, VOC07 = "ImageNet", "ImageNet-100", "VOC07"


def run_of(representation: Representation) -> Run | None:
    """The run that a representation comes from, or is of the size of; None: it is no run's."""
    text = representation.name.removeprefix(UNTRAINED).removeprefix(PIXELS)
    named = representation.kind or representation.found
    return read_run(text) if named and not text.startswith((TORCHVISION, WEIGHTS)) else None


def data_called(classes: tuple[str, ...] | None) -> str:
    """ "ImageNet" or "ImageNet-100", by the ids of the classes; "" for any other images."""
    if classes == imagenet100_classes():
        return IMAGENET100
    ids = classes is not None and len(classes) == IMAGENET_CLASSES and all(name.startswith("n") for name in classes)
    return IMAGENET if ids else ""


def voc_called(result: Mapping[str, Any]) -> str:
    """ "VOC07" where a result of ``svm`` is of as many images as that has; "" for another folder of the form."""
    same = (result["num_train"], result["num_val"]) == VOC07_IMAGES and str(result["year"]) == "2007"
    return VOC07 if same else ""


def paper_beside(
    table: str, representation: Representation, *, data: str, weights: str = "", departures: Sequence[str] = ()
) -> dict[str, object] | None:
    """What is printed for a representation under a protocol; None: nothing is.

    Args:
        table: of :func:`co2ssl.evaluate.published.published_tables`.
        representation: what was measured. Nothing is printed for one that is not trained, but for training it.
        data: what it was measured on, as :func:`data_called` has it.
        weights: which of torchvision's it has.
        departures: how ours was measured otherwise than the paper's, in words (:func:`measured_otherwise`).

    Returns:
        ``value`` (percent), ``metric``, ``data``, ``mark``, ``source``, and ``words``: what sets it apart.
    """
    training = table.startswith(SUPERVISED)
    if not training and representation.name.startswith((UNTRAINED, PIXELS)):
        return None
    run = None if training else run_of(representation)
    supervised = training or representation.name.startswith(TORCHVISION)
    recipe = SUPERVISED if supervised else "" if run is None else run.config.resolved.name
    found = published(table, recipe)
    if found is None:
        return None
    where, number = found
    words = [number.note, *departures]
    words.append("" if weights in ("", DEFAULT_WEIGHTS) else f"by the recipe of its time; here the weights {weights}")
    words.append("" if data == where.data else f"on {where.data}; here it is other images")
    if run is not None:
        words += _departures(run, where)
    elif sum(tensor.numel() for tensor in representation.backbone.parameters()) != RESNET50_WEIGHTS:
        words.append("of a ResNet-50; here it is another network")
    return {
        "value": number.value,
        "metric": where.metric,
        "data": where.data,
        "mark": number.mark,
        "source": where.source,
        "words": [text for text in words if text],
    }


def measured_otherwise(
    representation: Representation, result: Mapping[str, Any], *, batch_size: int | None
) -> list[str]:
    """In what a measurement is not the paper's, whatever it is of.

    Args:
        representation: what was measured.
        result: of the measurement; of several seeds, the first.
        batch_size: that was asked for; None: the published one, or the largest that there are images for.
    """
    words = [str(result["note"])] if result.get("note") else []
    if representation.image_size != IMAGE_SIZE:
        words.append(f"at {IMAGE_SIZE} pixels; here at {representation.image_size}")
    if batch_size not in (None, BATCH_SIZE) and ("draws" in result or "classifiers" in result):
        words.append(f"in batches of {BATCH_SIZE}; here of {batch_size}")
    draws = result.get("draws")
    if result.get("protocol") == "finetune" and isinstance(draws, list) and len(draws) != DRAWS:
        words.append(f"a mean of {DRAWS} trainings; here of {len(draws)}")
    return words


def _departures(run: Run, table: PublishedTable) -> list[str]:
    """In what a run is not the paper's."""
    resolved, data = run.config.resolved, run.config.data
    trained_on = IMAGENET100 if table.data == IMAGENET100 else IMAGENET
    words = []
    if not data.source.startswith(f"{trained_on.replace('-', '').lower()}:"):
        words.append(f"pretrained on {trained_on}; here on {data.num_images:,} images of {data.source}")
    as_published = load_recipe(resolved.name).recipe
    changed = [name for name in type(as_published).model_fields if _differ(name, as_published, resolved.recipe)]
    if changed:
        words.append(f"with the recipe's values; here others of {', '.join(changed)}")
    return words


def _differ(name: str, one: object, other: object) -> bool:
    return bool(getattr(one, name) != getattr(other, name))
