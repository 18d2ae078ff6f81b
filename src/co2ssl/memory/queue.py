"""``Queue``: the keys of past batches, as a ring.

He et al., *Momentum Contrast for Unsupervised Visual Representation Learning*, CVPR 2020, Section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How far from 1 the length of a key may be. bfloat16 keeps 8 bits, so a rounded unit vector is off by up to 0.004.
_LENGTH_TOLERANCE = 0.01


class Queue(nn.Module):
    """The last K keys with the images they came from. All of it is in the state dict.

    Contrast first and enqueue after the optimiser step: ``keys`` is the table itself, not a snapshot, and is
    overwritten in place. Any number of keys fits any size: the ring wraps.

    Args:
        size: number of keys. The paper's K.
        dim: D, width of a key.
        seed: the first rows, unit vectors in random directions, are a function of it alone.

    Attributes:
        keys: (K, D), unit rows.
        index: (K,) int64, the image each key was made from; -1 for a row never written.
        pointer: () int64, the row that is written next, which holds the oldest key.

    Raises:
        ValueError: a size or width below 1.
    """

    keys: Tensor
    index: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, seed: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs at least one key of at least one dimension, got size {size}, dim {dim}")
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("index", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._length_checked = False

    @property
    def size(self) -> int:
        """K."""
        return self.keys.shape[0]

    @torch.no_grad()
    def enqueue(self, keys: Tensor, index: Tensor) -> None:
        """Write N keys over the oldest ones, in order. Of more than K keys the last K stay.

        Nothing is copied but the rows themselves, and the device is not waited for (the first call checks
        the keys' length, and does wait).

        Args:
            keys: (N, D), unit rows of any floating-point type.
            index: (N,) int64, the image of each key.

        Raises:
            ValueError: shapes that do not fit, or, on the first call, rows that are not of unit length.
        """
        rows = keys.shape[0]
        if keys.dim() != 2 or keys.shape[1] != self.keys.shape[1]:
            raise ValueError(f"keys must be (N, {self.keys.shape[1]}), got {tuple(keys.shape)}")
        if index.dtype != torch.int64 or tuple(index.shape) != (rows,):
            raise ValueError(f"index must be int64 ({rows},), got {index.dtype} {tuple(index.shape)}")
        if not self._length_checked and rows > 0:
            _check_unit_length(keys)
            self._length_checked = True
        kept = min(rows, self.size)
        places = torch.arange(rows - kept, rows, device=self.pointer.device).add_(self.pointer).remainder_(self.size)
        self.keys.index_copy_(0, places, keys[rows - kept :].to(self.keys))
        self.index.index_copy_(0, places, index[rows - kept :].to(self.index))
        self.pointer.add_(rows).remainder_(self.size)


def _check_unit_length(keys: Tensor) -> None:
    lengths = torch.linalg.vector_norm(keys.float(), dim=1)
    # Written so that a NaN counts as wrong.
    wrong = ~((lengths - 1).abs() <= _LENGTH_TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.to(torch.int64).argmax())
        raise ValueError(
            f"keys must have unit length, but row {row} of {keys.shape[0]} has length {float(lengths[row]):.4g}: "
            "normalise them first (co2ssl's Encoder does; a zero or NaN row then comes from the network itself)"
        )
