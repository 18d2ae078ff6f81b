"""Randomness as a pure function: a counter-based hash over arrays instead of generator objects.

A value depends on (seed, epoch, image index, view, draw) or on (seed, step) and on nothing else, so worker count,
process count and the moment of a restart cannot change it. The mixer is SplitMix64's finaliser (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): each image's draws are one SplitMix64 sequence
whose start is the hash of the other counters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Streams keep uses apart that share a seed; their values are part of what makes a run repeatable: never renumber.
VIEW_STREAM = 0
ORDER_STREAM = 1
GROUP_STREAM = 2
SPLIT_STREAM = 3
REPLACEMENT_STREAM = 4

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def uniform(
    seed: int, *, epoch: int, index: NDArray[np.int64], view: int, draws: int, stream: int = VIEW_STREAM
) -> NDArray[np.float64]:
    """Numbers in [0, 1), (N, draws), for the images ``index`` (N,); row i depends on index[i] alone, not on N or i."""
    start = _mix(index.astype(np.uint64) ^ np.uint64(_start(seed, stream, epoch, view)))
    counter = np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _mix(start[:, None] + counter[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, *, epoch: int, length: int, stream: int = ORDER_STREAM) -> NDArray[np.int64]:
    """A permutation of 0 .. length - 1, (length,): the order of the images in an epoch."""
    start = np.uint64(_start(seed, stream, epoch))
    keys = _mix(_mix(np.arange(length, dtype=np.uint64) ^ start) + np.uint64(_GOLDEN))
    return np.argsort(keys, kind="stable")


def step_permutation(seed: int, *, step: int, length: int) -> NDArray[np.int64]:
    """A permutation of 0 .. length - 1, (length,), for one optimiser step: batch-norm groups of the global batch."""
    return permutation(seed, epoch=step, length=length, stream=GROUP_STREAM)


def _start(*counters: int) -> int:
    """The counters folded into 64 bits; the order of the counters matters."""
    state = 0
    for counter in counters:
        state = _mix_int((state ^ (counter & _MASK)) + _GOLDEN)
    return state


def _mix_int(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
