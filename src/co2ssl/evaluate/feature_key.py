"""What a file of features is named by: a hash of everything that they follow from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from co2ssl.data.decoding import BadImage
from co2ssl.data.sources import FileSource, Source, Subset
from co2ssl.evaluate.features import Precision
from co2ssl.evaluate.frozen import named_tensors
from co2ssl.version import __version__

FeatureType = Literal["float32", "float16"]

SAMPLED_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """Everything that features follow from.

    Attributes:
        weights: hash of every parameter and buffer of the network (:func:`network_hash`).
        architecture: hash of what the network prints of itself.
        data: the source's fingerprint.
        sample: hash of the sizes of its files and of the pixels of some of its images: a fingerprint may be of names
            alone, and two sizes of one data set have the same names.
        num_images: how many.
        image_size: side of the centre crop, pixels.
        resize: short side before it, pixels.
        layer: which of the network's layers.
        precision: of the network's arithmetic.
        dtype: of the numbers in the file.
        version: of this package.
    """

    weights: str
    architecture: str
    data: str
    sample: str
    num_images: int
    image_size: int
    resize: int | None
    layer: str
    precision: str
    dtype: FeatureType
    version: str = __version__

    @property
    def hash(self) -> str:
        """Sixteen hex digits: the name of the files."""
        return _hash(json.dumps(asdict(self), sort_keys=True).encode())


def feature_key(
    network: nn.Module,
    source: Source,
    *,
    image_size: int,
    resize: int | None,
    layer: str = "pooled",
    precision: Precision = "float32",
    dtype: FeatureType = "float32",
) -> FeatureKey:
    """The key of the features that ``network`` makes of ``source``."""
    return FeatureKey(
        weights=network_hash(network),
        architecture=_hash(repr(network).encode()),
        data=source.fingerprint(),
        sample=_sample_hash(source),
        num_images=len(source),
        image_size=image_size,
        resize=resize,
        layer=layer,
        precision=precision,
        dtype=dtype,
    )


def network_hash(network: nn.Module) -> str:
    """Sixteen hex digits of every parameter and buffer: name, type, shape and bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(network), key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def source_hash(source: Source) -> str:
    """Sixteen hex digits of a source: its fingerprint, its files' sizes, the pixels of some images, and its labels."""
    labels = b"" if source.labels is None else np.ascontiguousarray(source.labels).tobytes()
    named = json.dumps([source.fingerprint(), len(source), _sample_hash(source), source.classes])
    return _hash(named.encode("utf-8", "surrogateescape") + labels)


def _sample_hash(source: Source) -> str:
    digest = hashlib.sha256(_sizes_hash(source).encode())
    for place in np.unique(np.linspace(0, max(0, len(source) - 1), SAMPLED_IMAGES).astype(np.int64))[: len(source)]:
        try:
            image = source.load(int(place))
        except BadImage:
            continue
        digest.update(f"{place} {image.shape} ".encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:16]


def _sizes_hash(source: Source) -> str:
    """Of the files that the images are in, or that a set has which these are a part of; empty: they are in none."""
    while isinstance(source, Subset):
        source = source.source
    return source.sizes_hash() if isinstance(source, FileSource) else ""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
