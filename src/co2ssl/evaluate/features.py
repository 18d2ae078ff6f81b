"""Features of a data source: extracted once, shared by every protocol, by an encoder that is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from co2ssl.data.batch import normalise
from co2ssl.data.loader import evaluation_batches
from co2ssl.data.sources import Source
from co2ssl.errors import UserError

Precision = Literal["float32", "bf16"]


class EvaluationError(UserError):
    """Data or features that a protocol cannot measure."""


class EncoderChangedError(RuntimeError):
    """A probe moved a weight or a statistic of the encoder it was to leave alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What a frozen network makes of a data source, in the source's order, on the CPU.

    Attributes:
        features: (N, F) float32.
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


def extract(
    network: nn.Module,
    source: Source,
    *,
    image_size: int,
    resize: int | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
) -> Features:
    """Features of every image of ``source``, without gradient and in evaluation mode.

    ``network`` is called as it is: hand in ``encoder.backbone`` for the features that protocols measure, or the
    encoder itself for its embeddings. Its weights, statistics and modes are afterwards what they were.

    Args:
        network: maps normalised images (N, 3, H, W) on ``device`` to (N, F).
        image_size: side of the centre crop, pixels.
        resize: length the short side is brought to before the crop, pixels; None for the loader's own choice.

    Raises:
        EvaluationError: no images, an output that is not (N, F), or a value that is not finite.
        EncoderChangedError: the forward pass changed a parameter or a buffer.
    """
    device = torch.device(device)

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out: Tensor = network(normalise(images.to(device, non_blocking=True)))
        if out.ndim != 2:
            raise EvaluationError(
                f"the network gives features of shape {tuple(out.shape)} where (N, F) is needed: "
                "pool them over the image first"
            )
        return out

    with unchanged(network), _evaluating(network), torch.no_grad():
        return _collect(forward, source, image_size=image_size, resize=resize, batch_size=batch_size, workers=workers)


def raw_pixels(
    source: Source, *, image_size: int, resize: int | None = None, batch_size: int = 256, workers: int = 0
) -> Features:
    """The images themselves as features (N, 3 * image_size**2): the row that a network has to beat.

    Pixels are normalised as a network's input is: without the mean taken away, brightness alone would decide
    the cosine of two images.
    """
    return _collect(
        lambda images: normalise(images).flatten(1),
        source,
        image_size=image_size,
        resize=resize,
        batch_size=batch_size,
        workers=workers,
    )


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Compares every parameter and buffer, bit for bit, before and after the block.

    Raises:
        EncoderChangedError: one differs, appeared or is gone; the message names them.
    """
    before = {name: tensor.detach().clone() for name, tensor in _tensors(module)}
    yield
    after = dict(_tensors(module))
    moved = sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _same_bits(before[name], after[name])
    )
    if moved:
        shown = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
        raise EncoderChangedError(f"a frozen network was changed while it was measured: {shown}")


def matched_labels(train: Features, val: Features) -> tuple[Tensor, Tensor, tuple[str, ...]]:
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
                "give a folder with one subfolder of images per class"
            )
    assert train.labels is not None and train.classes is not None  # noqa: PT018
    assert val.labels is not None and val.classes is not None  # noqa: PT018
    if len(train.classes) < 2:
        raise EvaluationError(f"{train.source} has one class ({_listed(train.classes)}); accuracy needs at least two")
    counts = torch.bincount(train.labels, minlength=len(train.classes)).tolist()
    empty = [name for name, count in zip(train.classes, counts, strict=True) if count == 0]
    if empty:
        raise EvaluationError(
            f"{train.source} has no image of {_listed(empty)}: add images of it, or take the class out"
        )
    unknown = [name for name in val.classes if name not in train.classes]
    if unknown:
        raise EvaluationError(
            f"{val.source} has classes that {train.source} lacks: {_listed(unknown)}. "
            f"Classes are matched by name; {train.source} has {_listed(train.classes)}"
        )
    numbering = torch.tensor([train.classes.index(name) for name in val.classes])
    return train.labels, numbering[val.labels], train.classes


def _collect(
    forward: Callable[[Tensor], Tensor],
    source: Source,
    *,
    image_size: int,
    resize: int | None,
    batch_size: int,
    workers: int,
) -> Features:
    kept: Tensor | None = None
    labels: list[Tensor] = []
    indices: list[Tensor] = []
    count = 0
    batches = evaluation_batches(source, image_size=image_size, resize=resize, batch_size=batch_size, workers=workers)
    for images, label, index in batches:
        out = forward(images)
        if not bool(torch.isfinite(out).all()):
            raise EvaluationError(
                f"features of {source.name} are not finite (first seen among images "
                f"{int(index[0])} to {int(index[-1])}): the weights, or the images, hold values that overflow"
            )
        if kept is None:
            # One buffer of the final size: joining a list of batches would hold everything twice.
            kept = torch.empty((len(source), out.shape[1]), dtype=torch.float32)
        kept[count : count + len(out)] = out
        count += len(out)
        indices.append(index)
        if label is not None:
            labels.append(label)
    if kept is None:
        raise EvaluationError(f"{source.name} has no images to measure with")
    return Features(
        features=kept[:count],
        labels=torch.cat(labels) if labels else None,
        index=torch.cat(indices),
        classes=source.classes,
        source=source.name,
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode afterwards (a part may have been frozen on purpose)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    # As bytes: NaN equals itself, and 0.0 is not -0.0.
    return torch.equal(_bytes(left), _bytes(right).to(left.device))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _listed(names: list[str] | tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
