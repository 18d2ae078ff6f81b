"""Batch norm as a choice with a name: over which rows are the statistics taken?

* ``plain``: all rows of this process.
* ``split``: consecutive groups of the global batch, each on its own: what data-parallel training on several
  GPUs does, on any number of devices. MoCo's published runs are this, with 8 GPUs and so 8 groups.
* ``shuffle``: all rows of this process, for keys that are permuted across processes (MoCo, Section 3.3).
* ``sync``: all rows of all processes, as SimCLR needs.

All keep the parameters, buffers and key names of ``torch.nn.BatchNorm1d`` and ``BatchNorm2d``, and in
evaluation mode all are plain batch norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from co2ssl.distributed import all_reduce_sum, gather, world_size
from co2ssl.encoders.split_norm import split_batch_norm

BatchNormKind: TypeAlias = Literal["plain", "split", "sync", "shuffle"]

_Norm = TypeVar("_Norm", bound=_BatchNorm)


class SplitBatchNorm1d(nn.BatchNorm1d):
    """Batch norm of (N, C) or (N, C, L) in ``groups`` groups of consecutive rows: see :class:`SplitBatchNorm2d`."""

    def __init__(self, num_features: int, groups: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.groups = _check_groups(groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Each group normalised on its own in training; plain in evaluation."""
        self._check_input_dim(input)
        return _split_forward(self, input, self.groups) if self.training and self.groups > 1 else super().forward(input)


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of (N, C, H, W) in ``groups`` groups of consecutive rows, each normalised on its own in training.

    The running statistics move towards the mean over the groups of their means and unbiased variances: what
    the statistics of as many data-parallel processes are on average. Evaluation uses them as plain batch norm does.

    Args:
        num_features: C.
        groups: number of groups that this process's rows are cut into.
        options: ``eps``, ``momentum``, ``affine``, ``device``, ``dtype`` of ``torch.nn.BatchNorm2d``.

    Raises:
        ValueError: fewer than one group; in ``forward``, rows that do not divide into the groups.
    """

    def __init__(self, num_features: int, groups: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.groups = _check_groups(groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Each group normalised on its own in training; plain in evaluation."""
        self._check_input_dim(input)
        return _split_forward(self, input, self.groups) if self.training and self.groups > 1 else super().forward(input)


class SyncBatchNorm1d(nn.BatchNorm1d):
    """Batch norm of (N, C) or (N, C, L) over the rows of all processes: see :class:`SyncBatchNorm2d`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalised over all processes in training; plain in evaluation, and with one process."""
        self._check_input_dim(input)
        return _sync_forward(self, input) if self.training and world_size() > 1 else super().forward(input)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of (N, C, H, W) over the rows of all processes, on the CPU as well as on GPUs.

    Forward and backward equal batch norm of the joined batch; processes may hold different numbers of rows.
    (``torch.nn.SyncBatchNorm`` runs on GPUs only.)
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalised over all processes in training; plain in evaluation, and with one process."""
        self._check_input_dim(input)
        return _sync_forward(self, input) if self.training and world_size() > 1 else super().forward(input)


def convert_batch_norm(module: nn.Module, kind: BatchNormKind, *, groups: int = 1) -> nn.Module:
    """Give every batch norm inside ``module`` the named kind. Weights, statistics and key names stay.

    Call it after the process group is up: the share of the groups that falls to this process is fixed here.

    Args:
        module: changed in place.
        kind: "plain", "split", "sync" or "shuffle", as at the top of this file.
        groups: for "split", the number of groups of the *global* batch, at least 2; of no use to the others.

    Returns:
        ``module``, or its replacement where it is a batch norm itself.

    Raises:
        ValueError: an unknown kind; groups that do not fit the kind or the number of processes; "shuffle" with
            one process; a batch norm without running statistics or with ``momentum=None``.
    """
    _check_kind(kind, groups)
    if isinstance(module, _BatchNorm):
        return _converted(module, kind, groups)
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, kind, groups=groups))
    return module


def average_running_statistics(module: nn.Module) -> None:
    """Replace every batch norm's running statistics by their mean over the processes, in place.

    Each process keeps statistics of its own share. They are moving averages, so that averaging them at any
    time gives what averaging in every step would have given, up to rounding: call it before an encoder is
    written, on every process; to evaluate one that goes on training there is :func:`averaged_statistics`. Does
    nothing with one process.
    """
    if world_size() == 1:
        return
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            both = all_reduce_sum(torch.stack([norm.running_mean, norm.running_var])) / world_size()
            norm.running_mean.copy_(both[0])
            norm.running_var.copy_(both[1])


@contextmanager
def averaged_statistics(module: nn.Module) -> Iterator[None]:
    """Within a ``with`` block every running statistic is its mean over the processes; then each has its own again.

    Every process enters it. What is trained afterwards does not depend on whether the block was there, to the bit.
    """
    if world_size() == 1:
        yield
        return
    own = running_statistics(module)
    average_running_statistics(module)
    try:
        yield
    finally:
        set_running_statistics(module, own)


def running_statistics(module: nn.Module) -> Tensor:
    """This process's running statistics of every batch norm in ``module``, in the order of its modules.

    Returns:
        (S,) on the CPU, in float64, which has every value of the narrower types: the C means and C variances of each.
    """
    kept = _statistics(module)
    return torch.cat(kept).cpu().double() if kept else torch.empty(0, dtype=torch.float64)


@torch.no_grad()
def set_running_statistics(module: nn.Module, values: Tensor) -> None:
    """Put back what :func:`running_statistics` gave, in place.

    Args:
        module: the one they are of, or one that is built like it.
        values: (S,).

    Raises:
        ValueError: they are of another number of channels.
    """
    kept = _statistics(module)
    size = sum(statistic.numel() for statistic in kept)
    if values.shape != (size,):
        raise ValueError(f"running statistics of shape {tuple(values.shape)} where the network has ({size},)")
    first = 0
    for statistic in kept:
        last = first + statistic.numel()
        statistic.copy_(values[first:last].to(statistic.dtype))
        first = last


def depends_on_processes(module: nn.Module) -> bool:
    """Whether batch norm in ``module`` normalises otherwise when a batch is shared among more or fewer processes.

    That of ``plain`` and ``shuffle`` does: it takes the rows of one process. ``split`` cuts the global batch into
    groups, as many on any number of processes, and ``sync`` takes all of it.
    """
    of_the_global_batch = (SplitBatchNorm1d, SplitBatchNorm2d, SyncBatchNorm1d, SyncBatchNorm2d, nn.SyncBatchNorm)
    return any(isinstance(part, _BatchNorm) and not isinstance(part, of_the_global_batch) for part in module.modules())


def _statistics(module: nn.Module) -> list[Tensor]:
    found: list[Tensor] = []
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            found += [norm.running_mean, norm.running_var]
    return found


def _check_groups(groups: int) -> int:
    if groups < 1:
        raise ValueError(f"batch norm needs at least one group, got {groups}")
    return groups


def _check_kind(kind: str, groups: int) -> None:
    processes = world_size()
    if kind not in get_args(BatchNormKind):
        raise ValueError(f"unknown batch norm {kind!r}: choose one of {', '.join(get_args(BatchNormKind))}")
    if kind != "split" and groups != 1:
        raise ValueError(f"groups={groups} says nothing to {kind!r} batch norm: leave groups out, or choose 'split'")
    if kind == "split" and groups < 2:
        raise ValueError(f"'split' batch norm needs at least 2 groups, got {groups}: one group is 'plain'")
    if kind == "split" and groups % processes:
        raise ValueError(
            f"{groups} batch-norm groups do not divide among {processes} processes: use a multiple of {processes}"
        )
    if kind == "shuffle" and processes == 1:
        raise ValueError(
            "'shuffle' batch norm permutes keys across processes, and there is only one: the whole batch would be "
            "normalised together in any order, and the leak stays. Use 'split' (for example with 8 groups)"
        )


def _converted(norm: _BatchNorm, kind: BatchNormKind, groups: int) -> _BatchNorm:
    one = isinstance(norm, nn.BatchNorm1d)
    if not one and not isinstance(norm, nn.BatchNorm2d):
        raise ValueError(f"cannot convert a {type(norm).__name__}: only BatchNorm1d and BatchNorm2d are known")
    if norm.running_mean is None or norm.momentum is None:
        raise ValueError("cannot convert a batch norm without running statistics or with momentum=None")
    size = norm.num_features
    options: dict[str, Any] = {"eps": norm.eps, "momentum": norm.momentum, "affine": norm.affine}
    if kind == "split":
        share = groups // world_size()
        split = SplitBatchNorm1d(size, share, **options) if one else SplitBatchNorm2d(size, share, **options)
        return _take_over(split, norm)
    if kind == "sync":
        return _take_over(SyncBatchNorm1d(size, **options) if one else SyncBatchNorm2d(size, **options), norm)
    return _take_over(nn.BatchNorm1d(size, **options) if one else nn.BatchNorm2d(size, **options), norm)


def _take_over(new: _Norm, old: _BatchNorm) -> _Norm:
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    return new.train(old.training)


def _split_forward(norm: _BatchNorm, rows: Tensor, groups: int) -> Tensor:
    if rows.shape[0] % groups:
        raise ValueError(
            f"{rows.shape[0]} rows do not divide into {groups} batch-norm groups: "
            f"use a batch size for each process that is a multiple of {groups}, or another number of groups"
        )
    assert norm.running_mean is not None
    normalised, mean, variance = split_batch_norm(
        rows, norm.weight, norm.bias, groups=groups, eps=norm.eps, like=norm.running_mean
    )
    _track(norm, mean.mean(dim=0), variance.mean(dim=0))
    return normalised


def _sync_forward(norm: _BatchNorm, rows: Tensor) -> Tensor:
    normalised, mean, variance = _SyncNorm.apply(rows, norm.weight, norm.bias, norm.eps)
    _track(norm, mean, variance)
    output: Tensor = normalised
    return output


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_(variance.to(norm.running_var), norm.momentum)


class _SyncNorm(torch.autograd.Function):
    """Batch norm of the joined batch. Returns the rows, the mean (C,) and the unbiased variance (C,)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, squares, count = _joined_moments(rows)
        variance = squares / count
        ctx.save_for_backward(rows, weight, mean, (variance + eps).rsqrt(), count)
        # Evaluation mode is the fused kernel for given statistics.
        normalised = F.batch_norm(rows, mean, variance, weight, bias, False, 0.0, eps)
        unbiased = squares / (count - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return normalised, mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows, weight, mean, scale, count = ctx.saved_tensors
        over, column = _layout(rows)
        gradient = gradients[0].to(mean.dtype)
        standard = (rows.to(mean.dtype) - mean.view(column)) * scale.view(column)
        own = torch.stack([gradient.sum(over), (gradient * standard).sum(over)])  # (2, C)
        per_value = (all_reduce_sum(own) / count).view(2, *column)
        slope = scale if weight is None else scale * weight
        to_rows = (gradient - per_value[0] - standard * per_value[1]) * slope.view(column)
        # Each process keeps its own share of the weight's gradient: summing those is DDP's part.
        to_weight = None if weight is None else own[1].to(weight.dtype)
        to_bias = None if weight is None else own[0].to(weight.dtype)
        return to_rows.to(rows.dtype), to_weight, to_bias, None


def _joined_moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), sum of squared deviations (C,) and number of values (1,) over all processes.

    Each process's own mean and squared deviations are joined (Chan et al. 1979), not sums of squares, which
    would cancel.
    """
    over, column = _layout(rows)
    wide = rows if rows.dtype == torch.float64 else rows.float()
    count = rows.numel() // rows.shape[1]
    own_mean = wide.mean(over)
    own_squares = (wide - own_mean.view(column)).square().sum(over)
    every = gather(torch.cat([own_mean, own_squares, own_mean.new_tensor([count])]).unsqueeze(0))  # (processes, 2C + 1)
    means, squares, counts = torch.split(every, [rows.shape[1], rows.shape[1], 1], dim=1)
    total = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / total
    return mean, squares.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0), total


def _layout(rows: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that statistics run over, and the shape that sets (C,) beside the rows."""
    return [d for d in range(rows.dim()) if d != 1], [1, -1, *[1] * (rows.dim() - 2)]
