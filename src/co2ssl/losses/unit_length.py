"""Cosine scores need unit vectors: how that is checked without waiting for the device in every step."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from co2ssl.losses.contrast import Contrast, Cosine

# Rounding a unit vector to bfloat16 changes its length by at most 0.004.
TOLERANCE = 0.01

# Tables that were found right and live on between calls, by id.
_trusted: dict[int, weakref.ref[Tensor]] = {}
# Shape, dtype and device of the tables that the host has waited for.
_waited_for: set[tuple[tuple[int, ...], torch.dtype, torch.device]] = set()


def check_unit_length(contrast: Contrast) -> Tensor | None:
    """Refuse vectors that are not of unit length, where the score is the cosine.

    On the CPU query and positive are checked in every call. A table is checked when it is first seen and trusted from
    then on: a memory checks what it takes in. One that carries gradient changes with every step, and is checked in
    every call.

    On an accelerator the host would have to wait for that. It does so the first time a table of a shape, dtype and
    device is seen, and trusts that table. After that a vector of the wrong length makes the loss NaN, be it in query,
    in positive or in another table, as one that is made anew in each step (in-batch, gathered, cloned, normalised)
    always is. Under ``torch.compile`` query and positive alone are checked, and in that way.

    Returns:
        None, or a scalar to multiply the loss by: 1, or NaN where a vector of this call is not of unit length.

    Raises:
        ValueError: which vectors are not of unit length, and what to do.
    """
    if not isinstance(contrast.score, Cosine):
        return None
    table = contrast.negatives
    named = {"query": contrast.query, "positive": contrast.positive}
    if torch.compiler.is_compiling():
        return _poison(named)
    trusted = _is_trusted(table)
    if not trusted:
        named["negatives"] = table
    if _is_on_host(contrast.query):
        _refuse(named)
        _trust(table)
        return None
    kind = (tuple(table.shape), table.dtype, table.device)
    if not trusted and kind not in _waited_for:
        _refuse(named)
        _trust(table)
        _waited_for.add(kind)
    return _poison(named)


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _poison(named: dict[str, Tensor]) -> Tensor:
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


def _is_trusted(table: Tensor) -> bool:
    """Whether this very tensor has been found right before, and is a constant."""
    seen = _trusted.get(id(table))
    return seen is not None and seen() is table and not table.requires_grad


def _trust(table: Tensor) -> None:
    if table.requires_grad or _is_trusted(table):
        return
    for key in [key for key, reference in _trusted.items() if reference() is None]:
        del _trusted[key]
    _trusted[id(table)] = weakref.ref(table)
