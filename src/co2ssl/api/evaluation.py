"""``evaluate``: put a representation through a protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from co2ssl.api.build import build_backbone, evaluation_resize
from co2ssl.api.machine import build_device
from co2ssl.api.runs import load_encoder, read_run
from co2ssl.config import RunOptions, usable_cores
from co2ssl.data.sources import Source, open_source
from co2ssl.errors import UsageError
from co2ssl.evaluate import PROTOCOLS
from co2ssl.evaluate.features import Features, extract, raw_pixels
from co2ssl.evaluate.knn import DEFAULT_TEMPERATURE, knn
from co2ssl.evaluate.linear import linear_lbfgs
from co2ssl.train.checkpoint import write_atomically
from co2ssl.train.progress import warn
from co2ssl.version import __version__

PIXELS = "pixels:"
UNTRAINED = "untrained:"


@dataclass(frozen=True, kw_only=True)
class Representation:
    """What turns an image into a vector, and at which size.

    Attributes:
        name: for tables.
        backbone: the network, or None for the pixels themselves.
        image_size: side of the centre crop, in pixels.
        resize: short side before the crop, in pixels.
        precision: of the network's arithmetic.
    """

    name: str
    backbone: nn.Module | None
    image_size: int
    resize: int
    precision: str = "float32"

    def features(self, source: Source, *, device: torch.device, workers: int) -> Features:
        """Features (N, F) of every image of the source, in its order."""
        if self.backbone is None:
            return raw_pixels(source, image_size=self.image_size, resize=self.resize, workers=workers)
        return extract(
            self.backbone.to(device),
            source,
            image_size=self.image_size,
            resize=self.resize,
            device=device,
            precision="bf16" if self.precision == "bf16" else "float32",
            workers=workers,
        )


def representation(run: str | Path) -> Representation:
    """The backbone of a run, or one of the two it has to beat.

    Args:
        run: a run folder; "untrained:RUN", the same network with fresh weights; or "pixels:RUN", the image itself at
            the size that run was trained at.

    Raises:
        UsageError: no run there.
    """
    text = str(run)
    kind = next((prefix for prefix in (PIXELS, UNTRAINED) if text.startswith(prefix)), "")
    config = read_run(text.removeprefix(kind)).config
    recipe = config.resolved.recipe
    backbone: nn.Module | None
    if kind == PIXELS:
        backbone = None
    elif kind == UNTRAINED:
        torch.manual_seed(config.options.seed)
        backbone = build_backbone(recipe)
    else:
        backbone = load_encoder(text)
    return Representation(
        name=text,
        backbone=backbone,
        image_size=recipe.image_size,
        resize=evaluation_resize(recipe.image_size),
        precision=config.options.precision,
    )


def evaluate(
    protocol: str,
    run: str | Path,
    train: str,
    val: str,
    *,
    neighbours: int | None = None,
    temperature: float = DEFAULT_TEMPERATURE,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
) -> dict[str, object]:
    """Measure a frozen backbone on labelled images; nothing is chosen on ``val``.

    Args:
        protocol: "knn" or "linear".
        run: as for :func:`representation`.
        train: labelled images to learn the classes from, as for ``pretrain``.
        val: labelled images to measure on.
        neighbours: of knn: how many vote; None for 200, or fewer where classes are small. The paper's k.
        temperature: of knn: a neighbour of cosine s votes with exp(s / temperature).
        seed: of linear's held-out tenth.
        device: "auto", "cpu", "cuda" or "mps".
        workers: processes that decode; None: one a core.

    Returns:
        ``top1`` and ``top5`` as shares from 0 to 1, with the settings and counts. For a run folder also written to
        ``evaluation/<protocol>.json`` in it.

    Raises:
        UserError: an unknown protocol, no run, images without labels, or classes that do not match.
    """
    measure = _protocol(protocol, neighbours=neighbours, temperature=temperature, seed=seed)
    where = build_device(RunOptions.model_validate({"device": device}))
    measured = representation(run)
    count = usable_cores() if workers is None else workers
    known, asked = open_source(train, "train"), open_source(val, "val")
    if known.fingerprint() == asked.fingerprint():
        warn(f"{train} and {val} are the same images, so every image finds itself: this is no measure of accuracy")
    train_features = measured.features(known, device=where, workers=count)
    val_features = measured.features(asked, device=where, workers=count)
    result = {"representation": measured.name, "version": __version__, **measure(train_features, val_features, where)}
    if not measured.name.startswith((PIXELS, UNTRAINED)):
        _write(Path(measured.name) / "evaluation" / f"{protocol}.json", result)
    return result


def _protocol(
    name: str, *, neighbours: int | None, temperature: float, seed: int
) -> Callable[[Features, Features, torch.device], dict[str, object]]:
    if name == "knn":
        return lambda train, val, device: knn(train, val, k=neighbours, temperature=temperature, device=device)
    if name == "linear":
        return lambda train, val, _: linear_lbfgs(train, val, seed=seed)
    raise UsageError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}.")


def _write(path: Path, result: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda file: file.write(json.dumps(result, indent=2).encode() + b"\n"))
