"""What can be measured: where a backbone comes from, and what of its weights was found.

Checkpoints of other libraries get a prefix of their own in ``_SOURCES``, and a function that turns their keys into
torchvision's; everything after that is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from co2ssl.api.build import build_backbone, evaluation_resize
from co2ssl.api.runs import load_encoder, read_run
from co2ssl.api.weights import fill, fresh_backbone, read_weights, torchvision_names
from co2ssl.data.loader import MAX_BAD_SHARE
from co2ssl.data.sources import Source
from co2ssl.errors import UsageError, UserError
from co2ssl.evaluate.feature_key import FeatureType, feature_key
from co2ssl.evaluate.feature_store import FeatureStore
from co2ssl.evaluate.features import Features, Precision, collect, require_readable, shared_feature_batches
from co2ssl.evaluate.layers import POOLED, at_layer
from co2ssl.evaluate.progress import Progress
from co2ssl.train.stop import any_process

PIXELS = "pixels:"
UNTRAINED = "untrained:"
WEIGHTS = "weights:"
TORCHVISION = "torchvision:"

IMAGE_SIZE = 224
"""Of a backbone that does not say what it was trained on: the papers'."""
DEFAULT_WEIGHTS = "IMAGENET1K_V1"
"""torchvision's weights by the recipe of its time, beside which the papers put their supervised rows."""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """What turns an image into a vector, and at which size.

    Attributes:
        name: for tables.
        backbone: the network, (N, 3, H, W) to (N, F); for the pixels themselves one that only flattens.
        image_size: side of the centre crop, in pixels.
        resize: short side before the crop, in pixels.
        precision: of the network's arithmetic.
        found: what of the backbone's weights was found where, in words; empty where there was nothing to find.
        home: folder that features and results go to; None: they are not kept.
        kind: subfolder for results of what a backbone has to beat: "untrained" or "pixels"; "" for the backbone itself.
    """

    name: str
    backbone: nn.Module
    image_size: int
    resize: int
    precision: Precision = "float32"
    found: str = ""
    home: Path | None = None
    kind: str = ""

    def features(
        self,
        source: Source,
        *,
        device: torch.device,
        workers: int,
        layer: str = POOLED,
        resize: int | None = None,
        dtype: FeatureType = "float32",
        store: FeatureStore | None = None,
        max_bad_share: float = MAX_BAD_SHARE,
        quiet: bool = True,
    ) -> Features:
        """Features (N, F) of every image of the source, in its order. Over several processes all of them call it.

        Args:
            source: the images.
            device: where to compute.
            workers: processes that decode.
            layer: which of the backbone's layers (:mod:`co2ssl.evaluate.layers`).
            resize: short side before the crop, where a protocol has its own; None: the representation's.
            dtype: of the numbers in the file.
            store: where features are kept and looked for; None: they are made anew, and in memory.
            max_bad_share: more unreadable images than this share are an error; fewer are left out.
            quiet: no progress.

        Raises:
            DataError, EvaluationError: more unreadable images than allowed.
        """
        network = at_layer(self.backbone.to(device), layer)
        how: dict[str, Any] = {
            "image_size": self.image_size,
            "resize": self.resize if resize is None else resize,
            "precision": self.precision,
        }
        batches = Progress(f"features of {source.name}", total=len(source), quiet=quiet).track(
            shared_feature_batches(network, source, device=device, workers=workers, max_bad_share=max_bad_share, **how)
        )
        if store is None:
            found = collect(batches, source)
        else:
            key = feature_key(network, source, layer=layer, dtype=dtype, **how)
            there = store.load(key, source)
            missing = any_process(there is None)[0]
            found = store.save(key, source, batches) if there is None or missing else there
        require_readable(len(found), source, max_bad_share)
        return found


def representation(
    backbone: str | Path | nn.Module,
    *,
    arch: str | None = None,
    weights: str = DEFAULT_WEIGHTS,
    image_size: int | None = None,
    precision: Precision | None = None,
    out: str | Path | None = None,
) -> Representation:
    """A backbone, or one of the two that it has to beat.

    Args:
        backbone: a run folder; ``weights:PATH``, a safetensors or state-dict file with torchvision's keys;
            ``torchvision:NAME``, one of its ResNets; a module that maps normalised images (N, 3, H, W) to (N, F);
            ``untrained:`` before a run folder or ``torchvision:NAME``, the same network with fresh weights; or
            ``pixels:RUN``, the image itself at the size that run was trained at.
        arch: of ``weights:PATH``, by torchvision's name.
        weights: of ``torchvision:NAME``: which of torchvision's.
        image_size: side of the centre crop, in pixels; None: a run's own, 224 for others.
        precision: of the backbone; None: a run's own, float32 for others.
        out: folder for features and results; None: the run folder, or nothing is kept.

    Raises:
        UsageError: no run there, an unknown name, or a missing ``arch``.
        UserError: a file that does not hold every weight of the backbone; the missing ones are listed.
    """
    if isinstance(backbone, nn.Module):
        made = _plain(type(backbone).__name__, backbone)
    else:
        text = str(backbone)
        if arch is not None and not text.startswith(WEIGHTS):
            raise UsageError(f"--arch says what {WEIGHTS}PATH holds; {text} knows its own: leave it out.")
        made = next((make for prefix, make in _SOURCES.items() if text.startswith(prefix)), _of_run)(
            text, arch=arch, weights=weights
        )
    if image_size is not None:
        made = replace(made, image_size=image_size, resize=evaluation_resize(image_size))
    if precision is not None:
        made = replace(made, precision=precision)
    return made if out is None else replace(made, home=Path(out))


def _of_run(text: str, **_: Any) -> Representation:
    kind = next((prefix for prefix in (PIXELS, UNTRAINED) if text.startswith(prefix)), "")
    run = read_run(text.removeprefix(kind))
    recipe, options = run.config.resolved.recipe, run.config.options
    found = ""
    if kind == PIXELS:
        backbone: nn.Module = nn.Flatten()
    elif kind == UNTRAINED:
        torch.manual_seed(options.seed)
        backbone = build_backbone(recipe)
    else:
        backbone = load_encoder(text)
        count = len(backbone.state_dict())
        found = f"{count} of {count} weights of a {recipe.arch} from {run.folder}"
    return Representation(
        name=text,
        backbone=backbone,
        image_size=recipe.image_size,
        resize=evaluation_resize(recipe.image_size),
        precision=options.precision,
        found=found,
        home=run.folder,
        kind=kind.removesuffix(":"),
    )


def _of_file(text: str, *, arch: str | None, **_: Any) -> Representation:
    if arch is None:
        raise UsageError(f"{text} needs --arch: a file of weights does not say what it is of, such as resnet50.")
    backbone = fresh_backbone(arch)
    path = Path(text.removeprefix(WEIGHTS))
    return _plain(text, backbone, found=fill(backbone, read_weights(path), name=arch, where=str(path)))


def _of_torchvision(text: str, *, weights: str, **_: Any) -> Representation:
    from torchvision.models import get_model_weights

    name = text.removeprefix(TORCHVISION)
    backbone = fresh_backbone(name, known=torchvision_names())
    known = get_model_weights(name).__members__
    if weights not in known:
        raise UsageError(f"torchvision has no weights {weights!r} of {name}; it has {', '.join(known)}.")
    try:
        state = known[weights].get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {text} cannot be fetched from {known[weights].url} ({error}). Fetch them elsewhere and "
            f"give {WEIGHTS}PATH --arch {name}, or measure {UNTRAINED}{text}."
        ) from error
    return _plain(text, backbone, found=fill(backbone, state, name=name, where=f"torchvision's {weights}"))


def _untrained(text: str, **options: Any) -> Representation:
    name = text.removeprefix(UNTRAINED)
    if not name.startswith(TORCHVISION):
        return _of_run(text, **options)
    torch.manual_seed(0)
    made = _plain(text, fresh_backbone(name.removeprefix(TORCHVISION), known=torchvision_names()))
    return replace(made, kind=UNTRAINED.removesuffix(":"))


_SOURCES: dict[str, Callable[..., Representation]] = {
    WEIGHTS: _of_file,
    TORCHVISION: _of_torchvision,
    UNTRAINED: _untrained,
}


def _plain(name: str, backbone: nn.Module, *, found: str = "") -> Representation:
    resize = evaluation_resize(IMAGE_SIZE)
    return Representation(name=name, backbone=backbone, image_size=IMAGE_SIZE, resize=resize, found=found)
