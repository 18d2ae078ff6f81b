"""The choices every loss of this package shares, and what to say when one is wrong."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

NO_NEGATIVE = (
    "row {row} has no negative: ids, valid or also_positive leave none, so neither term is defined; "
    "use a larger batch or memory"
)

Reduction: TypeAlias = Literal["mean", "sum", "none"]
Direction: TypeAlias = Literal["symmetric", "forward", "reverse"]


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raise ValueError unless ``value`` is one of the literals of the type ``allowed``."""
    choices = get_args(allowed)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_temperature(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a positive, finite number."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_weight(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number, 0 or more."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, 0 or more, got {value!r}")


def reduce_rows(rows: Tensor, reduction: Reduction) -> Tensor:
    """(N,) to its mean or sum, or unchanged."""
    if reduction == "mean":
        return rows.mean()
    return rows.sum() if reduction == "sum" else rows


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype a loss is computed in: float32, or float64 where one of ``tensors`` is."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def kl_weights(direction: Direction) -> tuple[float, float]:
    """Weights of KL(P||Q) and KL(Q||P)."""
    return {"symmetric": (0.5, 0.5), "forward": (1.0, 0.0), "reverse": (0.0, 1.0)}[direction]


def check_label_smoothing(value: float, *, joined: bool) -> None:
    """Raise ValueError unless ``value`` is a share, and 0 where entries join the numerator."""
    if not 0 <= value < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {value!r}")
    if value and joined:
        raise ValueError(
            "label_smoothing spreads the target over single classes; also_positive makes several the target"
        )
