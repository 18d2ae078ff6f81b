"""Images that occur twice: with the same pixels, or nearly so (saved again, resized, slightly changed)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from co2ssl.data.pixels import Image

MOST_BITS = 8
"""Bits of the 64 of the difference hash that may differ between nearly equal images."""
MOST_LEVELS = 6.0
"""Mean difference in grey levels (of 255) that the small pictures of nearly equal images may have."""

_HASH_SIDE = 8
# Pixels that a bit of the hash compares must differ by more, or noise would set the bits of plain areas.
_MARGIN = 1.0
_SMALL = 16
_BLOCK = 512
_CHECKED_AT_ONCE = 16_384

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Picture:
    """What two images are compared by.

    Attributes:
        digest: of the size and of all pixels.
        bits: (64,) bool, the difference hash: whether each of 8 x 8 places of the small grey image is brighter than
            the one to its left.
        small: (16, 16, 3) uint8, the image made small.
    """

    digest: bytes
    bits: NDArray[np.bool_]
    small: Image


def picture(image: Image) -> Picture:
    """What is kept of an image (H, W, 3) uint8 to compare it by."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    small = cv2.resize(image, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    places = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    bits = places[:, 1:] - places[:, :-1] > _MARGIN
    return Picture(digest.digest(), bits.reshape(-1), small.astype(np.uint8))


def exact_copies(pictures: Sequence[Picture]) -> tuple[Pairs, list[int]]:
    """Pairs (copy, the first with the same pixels), and the places of what is left when the copies are taken out."""
    first: dict[bytes, int] = {}
    copies = []
    for place, one in enumerate(pictures):
        before = first.setdefault(one.digest, place)
        if before != place:
            copies.append((place, before))
    return copies, list(first.values())


def near_copies(pictures: Sequence[Picture]) -> Pairs:
    """Pairs (image, the first before it that is nearly the same), one for each image that has such a one.

    Nearly the same: at most :data:`MOST_BITS` of the 64 bits of the difference hash differ, and the images made small
    differ by at most :data:`MOST_LEVELS` grey levels on average (smooth images have the same few bits set by chance).
    """
    if len(pictures) < 2:
        return []
    bits = np.stack([one.bits for one in pictures])
    small = np.stack([one.small.reshape(-1) for one in pictures])
    found: dict[int, int] = {}
    for later, earlier in _candidates(bits):
        alike = np.abs(small[later].astype(np.int16) - small[earlier]).mean(axis=1) <= MOST_LEVELS
        for image, before in zip(later[alike].tolist(), earlier[alike].tolist(), strict=True):
            found[image] = min(before, found.get(image, before))
    return sorted(found.items())


def _candidates(bits: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of places, the later and the earlier, whose hashes (N, 64) are near; a part at a time."""
    # Of +1 and -1 the product of two hashes is 64 less twice the bits in which they differ.
    signs = np.where(bits, np.float32(1), np.float32(-1))
    least = bits.shape[1] - 2 * MOST_BITS
    for start in range(0, len(signs), _BLOCK):
        alike = signs[start : start + _BLOCK] @ signs[: start + _BLOCK].T >= least
        rows, columns = np.nonzero(np.tril(alike, k=start - 1))
        for part in range(0, len(rows), _CHECKED_AT_ONCE):
            chosen = slice(part, part + _CHECKED_AT_ONCE)
            yield rows[chosen] + start, columns[chosen]
