"""Features of a data source: extracted once, shared by every protocol, by an encoder that is left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from co2ssl.data.batch import normalise
from co2ssl.data.loader import MAX_BAD_SHARE, evaluation_batches
from co2ssl.data.sources import Source, Subset
from co2ssl.distributed import gather, rank, world_size
from co2ssl.errors import UserError
from co2ssl.evaluate.frozen import evaluating, unchanged

Precision = Literal["float32", "bf16"]

BATCH_SIZE = {"cpu": 64, "cuda": 256, "mps": 64}
"""Images in a forward pass; on a CPU more of them only push each other out of its caches."""


class EvaluationError(UserError):
    """Data or features that a protocol cannot measure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What a protocol needs to know of a data source before anything is computed of it.

    Attributes:
        labels: (N,) int64, or None where the source has none.
        classes: names of the classes as the data set has them (not as the labels happen to show), or None.
        source: name of the source.
        count: N.
    """

    labels: Tensor | None
    classes: tuple[str, ...] | None
    source: str
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What a frozen network makes of a data source, in the source's order, on the CPU.

    Attributes:
        features: (N, F) float32 or float16, in memory or mapped from a file.
        labels: (N,) int64, or None where the source has none.
        index: (N,) int64, place of each image in the source.
        classes: names of the classes as the data set has them (not as the labels happen to show), or None.
        source: name of the source.
    """

    features: Tensor
    labels: Tensor | None
    index: Tensor
    classes: tuple[str, ...] | None
    source: str

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, places: Tensor) -> Features:
        """The rows at ``places`` (M,) int64."""
        labels = None if self.labels is None else self.labels[places]
        return Features(
            features=self.features[places],
            labels=labels,
            index=self.index[places],
            classes=self.classes,
            source=self.source,
        )


def labels_of(source: Source) -> Labels:
    """The labels of a source."""
    labels = None if source.labels is None else torch.from_numpy(source.labels)
    return Labels(labels=labels, classes=source.classes, source=source.name, count=len(source))


def features_of(source: Source, features: Tensor, index: Tensor) -> Features:
    """Features (N, F) of the images ``index`` (N,) of a source, with their labels."""
    labels = None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])
    return Features(features=features, labels=labels, index=index, classes=source.classes, source=source.name)


def extract(
    network: nn.Module,
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
) -> Features:
    """Features of every image of ``source``, without gradient and in evaluation mode, in memory.

    ``network`` is called as it is: hand in ``encoder.backbone`` for the features that protocols measure, or the
    encoder itself for its embeddings. Its weights, statistics and modes are afterwards what they were.

    Args:
        network: maps normalised images (N, 3, H, W) on ``device`` to (N, F).
        image_size: side of the centre crop, pixels.
        resize: length the short side is brought to before the crop, pixels; None for the loader's own choice.
        batch_size: images in a forward pass; None: 64, on CUDA 256.
        max_bad_share: more unreadable images than this share are an error; fewer are left out.

    Raises:
        DataError: more unreadable images than allowed.
        EvaluationError: no images, an output that is not (N, F), or a value that is not finite.
        EncoderChangedError: the forward pass changed a parameter or a buffer.
    """
    batches = feature_batches(
        network,
        source,
        image_size=image_size,
        resize=resize,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
        max_bad_share=max_bad_share,
    )
    return collect(batches, source)


def raw_pixels(source: Source, *, image_size: int, resize: int | None = None, workers: int = 0) -> Features:
    """The images themselves as features (N, 3 * image_size**2): the row that a network has to beat.

    Pixels are normalised as a network's input is: without the mean taken away, brightness alone would decide
    the cosine of two images.
    """
    return extract(nn.Flatten(), source, image_size=image_size, resize=resize, workers=workers)


def feature_batches(
    network: nn.Module,
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What :func:`extract` collects: features (n, F) float32 on the CPU, and places in the source (n,) int64."""
    device = torch.device(device)
    batches = evaluation_batches(
        source,
        image_size=image_size,
        resize=resize,
        batch_size=batch_size or BATCH_SIZE[device.type],
        workers=workers,
        max_bad_share=max_bad_share,
    )
    with unchanged(network), evaluating(network):
        for images, _, index in batches:
            out = frozen_forward(network, images, device=device, precision=precision)
            if not bool(torch.isfinite(out).all()):
                raise EvaluationError(
                    f"features of {source.name} are not finite (first seen among images "
                    f"{int(index[0])} to {int(index[-1])}): the weights, or the images, hold values that overflow"
                )
            yield out.cpu(), index


def shared_feature_batches(
    network: nn.Module, source: Source, *, device: torch.device | str = "cpu", **settings: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Like :func:`feature_batches`, with the images divided among the processes; every process gets what all made.

    Every process calls it and takes all of it. Each has a contiguous share of the images, so the places of a batch are
    as many runs as there are processes. Each stops at more unreadable images than are allowed among all; whether all
    of them together have met more says :func:`require_readable`.
    """
    processes, own = world_size(), rank()
    batch_size = settings.pop("batch_size", None) or BATCH_SIZE[torch.device(device).type]
    if processes == 1 or len(source) < processes:
        yield from feature_batches(network, source, device=device, batch_size=batch_size, **settings)
        return
    first, last = (len(source) * place // processes for place in (own, own + 1))
    share = Subset(source, np.arange(first, last))
    # As many bad images as among all: they may lie together.
    allowed = settings.pop("max_bad_share", MAX_BAD_SHARE) * len(source) / len(share)
    batches = feature_batches(
        network, share, device=device, batch_size=batch_size, max_bad_share=min(1.0, allowed), **settings
    )
    rows, index = torch.empty(0), torch.empty(0, dtype=torch.int64)
    # As many rounds as the largest share has batches: a process that is done earlier joins in with none.
    for _ in range(math.ceil(math.ceil(len(source) / processes) / batch_size)):
        rows, index = next(batches, (rows[:0], index[:0]))
        yield gather(rows), gather(index + first)
    # The end of a share is where the network is compared with what it was.
    assert next(batches, None) is None


def collect(batches: Iterable[tuple[Tensor, Tensor]], source: Source) -> Features:
    """The batches of a source in memory, in the source's order.

    Raises:
        EvaluationError: there are none.
    """
    kept: Tensor | None = None
    seen = torch.zeros(len(source), dtype=torch.bool)
    for rows, index in batches:
        if kept is None:
            # One buffer of the final size: joining a list of batches would hold everything twice.
            kept = torch.empty((len(source), rows.shape[1]), dtype=torch.float32)
        kept[index] = rows
        seen[index] = True
    if kept is None:
        raise EvaluationError(f"{source.name} has no images to measure with")
    return features_of(source, kept if bool(seen.all()) else kept[seen], seen.nonzero().flatten())


def require_readable(read: int, source: Source, max_bad_share: float) -> None:
    """Refuse what was measured of too small a part of a source, such as features that lie on the disk.

    Args:
        read: how many of its images could be read.
        source: the images.
        max_bad_share: share of them that may be unreadable.

    Raises:
        EvaluationError: more of them are.
    """
    bad = len(source) - read
    if bad > max_bad_share * len(source):
        raise EvaluationError(
            f"{bad:,} of the {len(source):,} images of {source.name} cannot be read, more than "
            f"{100 * max_bad_share:g}%. Remove or replace them, or allow more with --max-bad-share"
        )


@torch.no_grad()
def frozen_forward(network: nn.Module, images: Tensor, *, device: torch.device, precision: Precision) -> Tensor:
    """Features (N, F) float32 on ``device`` of images (N, 3, H, W), uint8 or normalised, without gradient.

    Raises:
        EvaluationError: an output that is not (N, F).
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        out: Tensor = network(normalise(images.to(device, non_blocking=True)))
    if out.ndim != 2:
        raise EvaluationError(
            f"the network gives features of shape {tuple(out.shape)} where (N, F) is needed: "
            "pool them over the image first"
        )
    return out.float()


def matched_labels(train: Features | Labels, val: Features | Labels) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Labels of both sets on the training set's numbering: ((N,), (M,), class names). Classes are matched by name.

    Raises:
        EvaluationError: no images or no labels in one of them, fewer than two classes, a class without training
            images, a class of ``val`` that ``train`` does not have.
    """
    for features in (train, val):
        if len(features) == 0:
            raise EvaluationError(f"{features.source} has no images to measure with")
        if features.labels is None or features.classes is None:
            raise EvaluationError(
                f"{features.source} has no labels, and accuracy needs them: "
                "give a folder with one subfolder of images per class, and at least two of those"
            )
    assert train.labels is not None and train.classes is not None  # noqa: PT018
    assert val.labels is not None and val.classes is not None  # noqa: PT018
    if len(train.classes) < 2:
        raise EvaluationError(f"{train.source} has one class ({_listed(train.classes)}); accuracy needs at least two")
    counts = torch.bincount(train.labels, minlength=len(train.classes)).tolist()
    empty = [name for name, count in zip(train.classes, counts, strict=True) if count == 0]
    if empty:
        raise EvaluationError(no_image_of(train.source, empty))
    unknown = [name for name in val.classes if name not in train.classes]
    if unknown:
        raise EvaluationError(
            f"{val.source} has classes that {train.source} lacks: {_listed(unknown)}. "
            f"Classes are matched by name; {train.source} has {_listed(train.classes)}"
        )
    numbering = torch.tensor([train.classes.index(name) for name in val.classes])
    return train.labels, numbering[val.labels], train.classes


def no_image_of(source: str, classes: Sequence[str]) -> str:
    """What is wrong with images to learn from that do not show every class."""
    return f"{source} has no image of {_listed(classes)}: add images of it, or take the class out"


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
