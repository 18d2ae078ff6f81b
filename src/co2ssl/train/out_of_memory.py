"""A device without memory left, in whatever way torch says so, as one error."""

from __future__ import annotations

import torch

from co2ssl.errors import UserError

# MPS and the CPU have no error of their own for it, and neither has CUDA outside of torch's allocator.
_WORDS = ("out of memory", "DefaultCPUAllocator")


class OutOfMemoryError(UserError, torch.OutOfMemoryError):
    """The device has no memory left for a step. It is torch's error too, which ``__cause__`` holds as it came."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had no memory left, in whatever way torch says so for that device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)


def briefly(error: Exception) -> str:
    """What happened and how much was asked for; torch goes on about its allocator."""
    return ". ".join(str(error).partition("\n")[0].split(". ")[:2]).removesuffix(".")
