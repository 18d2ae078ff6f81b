"""Cosine scores need unit vectors: how that is checked without waiting for the device in every step."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from co2ssl.losses.contrast import Contrast, Cosine

# Rounding a unit vector to bfloat16 changes its length by at most 0.004.
TOLERANCE = 0.01

_checked: dict[int, weakref.ref[Tensor]] = {}


def check_unit_length(contrast: Contrast) -> Tensor | None:
    """Refuse vectors that are not of unit length, where the score is the cosine.

    On the CPU query and positive are checked in every call. A table is checked when it is first seen and trusted from
    then on: a memory checks what it takes in. On an accelerator everything is checked the first time a table (or, for
    one that carries gradient, its shape) is seen; after that a row of query or positive of the wrong length makes the
    loss NaN, without the host waiting for it.

    Returns:
        None, or a scalar to multiply the loss by: 1, or NaN where a vector of this call is not of unit length.

    Raises:
        ValueError: which vectors are not of unit length, and what to do.
    """
    if not isinstance(contrast.score, Cosine):
        return None
    named = {"query": contrast.query, "positive": contrast.positive}
    compiling = torch.compiler.is_compiling()
    first = not compiling and _first_sight(contrast.negatives)
    if contrast.query.device.type == "cpu" and not compiling:
        if first:
            named["negatives"] = contrast.negatives
        _refuse(named)
        return None
    if first:
        _refuse(named | {"negatives": contrast.negatives})
    wrong = torch.stack([_off(tensor).any() for tensor in named.values()]).any()
    return torch.where(wrong, torch.nan, 1.0)


def _refuse(named: dict[str, Tensor]) -> None:
    for name, tensor in named.items():
        off = _off(tensor)
        if bool(off.any()):
            length = float(_lengths(tensor).flatten()[off.flatten().nonzero()[0, 0]])
            raise ValueError(
                f"{int(off.sum())} of {off.numel()} vectors in {name} are not of unit length (the first has length "
                f"{length:.4g}), and the score is the cosine: normalise them, pass normalise=True, or use score=Dot()"
            )


def _lengths(tensor: Tensor) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    lengths: Tensor = torch.linalg.vector_norm(tensor.detach(), dim=-1, dtype=wide)
    return lengths


def _off(tensor: Tensor) -> Tensor:
    """Which vectors differ from unit length by more than rounding explains. NaN passes: it makes the loss NaN."""
    return (_lengths(tensor) - 1).abs() > TOLERANCE


def _first_sight(table: Tensor) -> bool:
    """Whether this table (a tensor that lives on between calls) has not been seen before."""
    seen = _checked.get(id(table))
    if seen is not None and seen() is table:
        return False
    for key in [key for key, reference in _checked.items() if reference() is None]:
        del _checked[key]
    _checked[id(table)] = weakref.ref(table)
    return True
