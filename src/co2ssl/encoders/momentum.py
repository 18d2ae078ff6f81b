"""The momentum (key) encoder: a copy that follows the trained one slowly.

He et al., *Momentum Contrast for Unsupervised Visual Representation Learning*, CVPR 2020, Section 3.2, Equation 2.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

_Module = TypeVar("_Module", bound=nn.Module)


def momentum_copy(encoder: _Module) -> _Module:
    """A deep copy with the same weights and batch-norm buffers, none of it trained by gradient."""
    copied = copy.deepcopy(encoder)
    copied.requires_grad_(False)
    return copied


def update_momentum(copied: nn.Module, source: nn.Module, ema_keep: float) -> None:
    """Move every parameter of the copy towards the source, in place: new = keep * old + (1 - keep) * source.

    Buffers are left alone: the copy's batch-norm statistics come from its own forward passes, as in MoCo.

    Args:
        copied: made by :func:`momentum_copy`.
        source: the encoder that is trained.
        ema_keep: weight of the *old* value, in [0, 1]. 1 freezes the copy, 0 makes it equal. The paper's m.

    Raises:
        ValueError: a weight outside [0, 1], or modules whose parameters differ in number.
    """
    if not 0.0 <= ema_keep <= 1.0:
        raise ValueError(f"ema_keep is the weight of the old value and lies in [0, 1], got {ema_keep}")
    old, new = list(copied.parameters()), list(source.parameters())
    if len(old) != len(new):
        raise ValueError(f"the copy has {len(old)} parameters and the source {len(new)}: make it with momentum_copy")
    if old:
        get_ema_multi_avg_fn(ema_keep)(old, new, 0)
