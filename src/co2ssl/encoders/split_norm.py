"""The arithmetic of split batch norm: every group of consecutive rows by its own mean and variance."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def split_batch_norm(
    rows: Tensor, weight: Tensor | None, bias: Tensor | None, *, groups: int, eps: float, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each group, then scale and shift.

    Args:
        rows: (N, C, ...), N a multiple of ``groups``.
        weight: (C,) or None.
        bias: (C,) or None.
        groups: number of groups of consecutive rows.
        eps: added to the variance.
        like: a tensor of the dtype that statistics have.

    Returns:
        normalised rows in the layout of ``rows``; mean and unbiased variance of each group, (groups, C), without
        gradient.

    Raises:
        ValueError: one value per channel in a group, which has no variance.
    """
    if rows.shape[0] // groups * math.prod(rows.shape[2:]) == 1:
        raise ValueError(
            f"rows of shape {tuple(rows.shape)} leave each of {groups} batch-norm groups 1 value per channel, which "
            "has no variance: use a larger batch for each process, or fewer groups"
        )
    # With momentum 1 batch norm leaves a batch's own mean and unbiased variance in its running statistics.
    mean = like.new_zeros((groups, rows.shape[1]))
    variance = torch.zeros_like(mean)
    if rows.device.type == "cpu":
        normalised: Tensor = _SplitNormOnCpu.apply(rows, weight, bias, groups, eps, mean, variance)
        return normalised, mean, variance
    parts = [
        F.batch_norm(part, mean[group], variance[group], weight, bias, True, 1.0, eps)
        for group, part in enumerate(rows.chunk(groups))
    ]
    return torch.cat(parts), mean, variance


class _SplitNormOnCpu(torch.autograd.Function):
    """The same kernels as ``F.batch_norm``'s, to the bit, writing into one tensor: nothing is copied together."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
        mean: Tensor,
        variance: Tensor,
    ) -> Tensor:
        normalised = torch.empty_like(rows)
        saved = torch.empty_like(mean), torch.empty_like(mean)
        for group, (part, out) in enumerate(zip(rows.chunk(groups), normalised.chunk(groups), strict=True)):
            torch.native_batch_norm(
                part,
                weight,
                bias,
                mean[group],
                variance[group],
                True,
                1.0,
                eps,
                out=(out, saved[0][group], saved[1][group]),
            )
        ctx.save_for_backward(rows, weight, *saved)
        ctx.groups, ctx.eps = groups, eps
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, scale = ctx.saved_tensors
        affine = weight is not None
        to_rows, to_weight, to_bias = [], [], []
        parts = zip(gradients[0].chunk(ctx.groups), rows.chunk(ctx.groups), strict=True)
        for group, (gradient, part) in enumerate(parts):
            each = torch.ops.aten.native_batch_norm_backward(
                gradient, part, weight, None, None, mean[group], scale[group], True, ctx.eps, [True, affine, affine]
            )
            to_rows.append(each[0])
            to_weight.append(each[1])
            to_bias.append(each[2])
        sums = [torch.stack(each).sum(dim=0) for each in (to_weight, to_bias)] if affine else [None, None]
        return torch.cat(to_rows), *sums, None, None, None, None
