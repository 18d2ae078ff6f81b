"""A network that is only looked at: in evaluation mode, and afterwards, bit for bit, what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EncoderChangedError(RuntimeError):
    """A probe moved a weight or a statistic of the encoder it was to leave alone."""


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Compares every parameter and buffer, bit for bit, before and after the block.

    Raises:
        EncoderChangedError: one differs, appeared or is gone; the message names them.
    """
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(module)}
    yield
    after = dict(named_tensors(module))
    moved = sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _same_bits(before[name], after[name])
    )
    if moved:
        shown = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
        raise EncoderChangedError(f"a frozen network was changed while it was measured: {shown}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each submodule's own mode afterwards (a part may have been frozen on purpose)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those included that no state dict holds."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    # As bytes: NaN equals itself, and 0.0 is not -0.0.
    return torch.equal(_bytes(left), _bytes(right).to(left.device))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
