"""The one place that knows about processes. Every function also works without a process group, as one process.

Rows of a global batch belong to processes in rank order: process r of W holds the r-th contiguous share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_initialised() -> bool:
    """Whether a process group is up. False in an ordinary single process."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Place of this process among all, from 0."""
    return dist.get_rank() if is_initialised() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if is_initialised() else 1


def is_main() -> bool:
    """True for the process that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(backend: str | None = None, *, patience: timedelta | None = None) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, for the length of a ``with`` block.

    Does nothing where ``WORLD_SIZE`` is absent or 1, and where a group is up already (its maker closes it).

    Args:
        backend: a backend of ``torch.distributed``. Default: gloo on a machine without CUDA, else nccl for
            tensors on the GPU and gloo for those on the CPU.
        patience: how long a process waits for the others before it gives up. Default: torch's, minutes.
    """
    if is_initialised() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if backend is None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "nccl" in backend:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=patience)
    try:
        yield
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """The rows of every process, in rank order, without gradient.

    Args:
        tensor: (n, ...); n may differ between processes, the other sizes and the dtype may not.

    Returns:
        (sum of n, ...), the same on every process. With one process the tensor itself, detached.
    """
    if world_size() == 1:
        return tensor.detach()
    return _gather(tensor, _row_counts(tensor))


def from_main(told: dict[str, Any]) -> dict[str, Any]:
    """What the main process has to say, on every process; the others' own is not looked at.

    Args:
        told: plain enough for JSON.
    """
    sent = list(json.dumps(told).encode()) if is_main() else []
    heard: dict[str, Any] = json.loads(bytes(gather(torch.tensor(sent, dtype=torch.uint8)).tolist()))
    return heard


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Like :func:`gather`, and the gradient finds its way back.

    The gradient of a row is the sum of what all processes ask of it: when every process back-propagates its
    own loss, each row receives the gradient of the sum of the losses, as if one process held the joined batch.

    Args:
        tensor: (n, ...).

    Returns:
        (sum of n, ...), the same values on every process. With one process the tensor itself.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _GatherWithGradient.apply(tensor)
    return gathered


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor over the processes, elementwise: a new tensor without gradient, the same on every process."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def rank_slice(num_rows: int) -> slice:
    """This process's contiguous share of a global batch.

    Args:
        num_rows: rows of the global batch.

    Raises:
        ValueError: the rows do not divide among the processes.
    """
    processes = world_size()
    if num_rows % processes:
        raise ValueError(
            f"a global batch of {num_rows} rows does not divide among {processes} processes: "
            f"use a batch size that is a multiple of {processes}"
        )
    share = num_rows // processes
    return slice(rank() * share, (rank() + 1) * share)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        counts = _row_counts(tensor)
        ctx.first = sum(counts[: rank()])
        ctx.rows = tensor.shape[0]
        return _gather(tensor, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduce_sum(gradients[0]).narrow(0, ctx.first, ctx.rows)


def _row_counts(tensor: Tensor) -> list[int]:
    """Rows that each process holds, exchanged over the CPU where that is possible: a GPU is not made to wait."""
    on_cpu = "cpu:" in dist.get_backend_config()
    own = torch.tensor([tensor.shape[0]], device="cpu" if on_cpu else tensor.device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(every, own)
    return [int(count) for count in torch.cat(every).tolist()]


def _gather(tensor: Tensor, counts: list[int]) -> Tensor:
    """All-gather of (n, ...) with the n of every process known. Shorter ones travel padded to the longest."""
    if tensor.dtype == torch.bool:
        return _gather(tensor.to(torch.uint8), counts).to(torch.bool)
    longest = max(counts)
    own = tensor.detach().contiguous()
    if tensor.shape[0] < longest:
        padding = own.new_zeros((longest - tensor.shape[0], *tensor.shape[1:]))
        own = torch.cat([own, padding])
    every = [torch.empty_like(own) for _ in counts]
    dist.all_gather(every, own)
    return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])
