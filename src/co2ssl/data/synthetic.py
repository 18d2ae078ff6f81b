"""Images drawn on demand: confetti of one shape per image, for demonstrations and tests without a download.

The class is the shape. Everything else that could give an image away is either the same in every class or drawn
afresh for every single shape: its colour, its polarity against the ground, its size and its place. So no mean colour
and no position tells the class, while two crops of one image share little *but* the shape, which is what contrastive
learning keeps. Shapes of all classes have the same area, so contrast is nearly alike too (they overlap unequally).
They stand nearly upright: MoCo v2's views never turn an image, and a slant is what tells a post from a dash.

Image ``i`` is a pure function of (seed, split, i, size). Its geometry and colours do not depend on the size: a larger
size is the same picture seen more sharply.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from co2ssl.errors import UsageError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CLASSES: tuple[str, ...] = (
    "disc",
    "ring",
    "post",
    "slash",
    "cross",
    "star",
    "crescent",
    "dash",
    "two dots",
    "angle",
)
SPLITS: tuple[str, ...] = ("train", "val", "test")

# Part of the fingerprint: raised whenever the same arguments would draw other pixels.
_VERSION = 1

# Shapes per side of the image.
_GRID = 5
# How far a shape strays from its cell's centre, in cells.
_JITTER = 0.3
# A shape's scale, in cells: its area is _AREA times the square of this.
_RADIUS = (0.45, 0.55)
# How far a shape turns either way, in radians.
_TURN = 0.12
# Colours are offsets from mid-grey on the 0 to 1 scale: light and dark alternate, hue is each shape's own.
_POLARITY = (0.3, 0.45)
_HUE = 0.18
_GROUND = 0.05
_CONTRAST = (0.7, 1.0)
_SLOPE = 0.2
_NOISE = 0.02

# The area every shape is brought to, in units of the distance table, before the scale.
_AREA = 2.4
# A shape's distance table is _TABLE x _TABLE samples of the square [-_EXTENT, _EXTENT]^2.
_TABLE = 128
_EXTENT = 1.6


class Shapes:
    """Ten classes of confetti, as a data source.

    Args:
        num_images: how many images; the classes take turns, so any run of ten indices holds each class once.
        size: side of the square images, in pixels.
        seed: chooses the data set. Not negative.
        split: "train", "val" or "test". Splits of one seed share no image.
    """

    def __init__(self, num_images: int, size: int, seed: int, split: str = "train") -> None:
        if num_images < 1 or size < 1 or not 0 <= seed < 2**64:
            raise UsageError(
                f"synthetic images: num_images {num_images} and size {size} must be 1 or more, "
                f"seed {seed} must be 0 or more and below 2**64"
            )
        if split not in SPLITS:
            raise UsageError(f"synthetic images: no split named {split!r}; choose one of {', '.join(SPLITS)}")
        self.num_images = num_images
        self.size = size
        self.seed = seed
        self.split = split
        self.name = f"demo {split}"
        self.classes = CLASSES
        self.labels: NDArray[np.int64] = np.arange(num_images, dtype=np.int64) % len(CLASSES)

    def __len__(self) -> int:
        return self.num_images

    def load(self, index: int) -> NDArray[np.uint8]:
        """Draw image ``index``: (size, size, 3) uint8 RGB."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"image {index} of {self.num_images}")
        # The counter's highest word holds the split: no image draws enough numbers to carry into it.
        bits = np.random.Philox(
            key=np.array([self.seed, index], dtype=np.uint64),
            counter=np.array([0, 0, 0, SPLITS.index(self.split)], dtype=np.uint64),
        )
        return _draw(np.random.Generator(bits), index % len(CLASSES), self.size)

    def describe(self, index: int) -> str:
        """What a report calls image ``index``."""
        return f"{self.split}/{CLASSES[index % len(CLASSES)]}/{index:06d}"

    def fingerprint(self) -> str:
        """A short hash of everything the pixels depend on."""
        what = f"shapes {_VERSION} {self.num_images} {self.size} {self.seed} {self.split}"
        return hashlib.sha256(what.encode()).hexdigest()[:16]


def _draw(rng: np.random.Generator, label: int, size: int) -> NDArray[np.uint8]:
    """One image of class ``label``: (size, size, 3) uint8."""
    centre, scale, turn, paint = _scatter(rng, label)
    # Each shape is painted in its own window, of one side for all: at 32 pixels a sixth of the whole image's work.
    # The canvas has a window's margin on every side, so that no window needs cutting.
    window = math.ceil(2 * _EXTENT * float(scale.max()) * size) + 2
    corner = np.floor((centre - _EXTENT * scale[:, None]) * size).astype(np.int64)
    cover = _coverage(label, corner, window, size, centre, scale, turn)
    canvas = np.pad(_ground(rng, size), ((window, window), (window, window), (0, 0)))
    for (left, top), alpha, colour in zip(corner + window, cover[..., None], paint, strict=True):
        patch = canvas[top : top + window, left : left + window]
        patch += alpha * (colour - patch)
    image = canvas[window : window + size, window : window + size]
    return _lit(rng, image)


def _scatter(rng: np.random.Generator, label: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Where the shapes lie, on a jittered grid shifted at random; only those that can reach the image.

    Returns:
        centre (n, 2) as x, y in image sides; scale (n,), the image sides in one unit of the distance table;
        turn (n,) in radians; paint (n, 3), the offset from mid-grey.
    """
    side = _GRID + 4
    count = side * side
    row, column = np.divmod(np.arange(count), side)
    shift = rng.random(2) + rng.uniform(-_JITTER, _JITTER, (count, 2))
    centre = 0.5 + (np.stack([column, row], axis=1) - side / 2 + shift) / _GRID
    scale = rng.uniform(*_RADIUS, count) / _GRID * _unit_scale()[label]
    turn = rng.uniform(-_TURN, _TURN, count)
    # Light and dark take turns over the grid, so that every crop has both and its mean says nothing of the image.
    polarity = np.where((row + column) % 2 == 0, 1.0, -1.0) * rng.uniform(*_POLARITY, count)
    paint = polarity[:, None] + rng.uniform(-_HUE, _HUE, (count, 3))
    reach = _EXTENT * scale[:, None]
    near = np.all((centre > -reach) & (centre < 1 + reach), axis=1)
    kept = (part[near].astype(np.float32) for part in (centre, scale, turn, paint))
    return next(kept), next(kept), next(kept), next(kept)


def _coverage(
    label: int, corner: NDArray[np.int64], window: int, size: int, centre: Floats, scale: Floats, turn: Floats
) -> Floats:
    """How much of each pixel of its window each shape covers: (n, window, window) in [0, 1], y before x.

    ``corner`` (n, 2) holds each window's first column and row in the image, in pixels.
    """
    place = (corner[:, :, None] + np.arange(window)).astype(np.float32)
    offset = (place + np.float32(0.5)) / np.float32(size) - centre[:, :, None]
    across, down = offset[:, 0], offset[:, 1]
    # The turned coordinates are sums of a row and a column term: two small outer sums, no (n, size, size) product.
    zoom = np.float32(_TABLE / (2 * _EXTENT)) / scale
    cosine, sine = (np.cos(turn) * zoom)[:, None], (np.sin(turn) * zoom)[:, None]
    middle = np.float32(_TABLE / 2)
    x = (cosine * across)[:, None, :] + (sine * down + middle)[:, :, None]
    y = (-sine * across)[:, None, :] + (cosine * down + middle)[:, :, None]
    np.clip(x, 0, _TABLE - 1, out=x)
    np.clip(y, 0, _TABLE - 1, out=y)
    distance = _distances()[label].ravel()[y.astype(np.int32) * _TABLE + x.astype(np.int32)]
    # One pixel of soft edge: half covered where the distance is zero.
    cover = np.float32(0.5) - distance * (scale * np.float32(size))[:, None, None]
    clipped: Floats = np.clip(cover, 0.0, 1.0, out=cover)
    return clipped


def _ground(rng: np.random.Generator, size: int) -> Floats:
    """A soft mottled ground, (size, size, 3), as an offset from mid-grey: 4 x 4 random colours, interpolated."""
    knots = rng.uniform(-_GROUND, _GROUND, (4, 4, 3)).astype(np.float32)
    along = np.linspace(0.0, 3.0, size, dtype=np.float32)
    weight = np.maximum(np.float32(0), 1 - np.abs(along[:, None] - np.arange(4, dtype=np.float32)))
    rows: Floats = (weight @ knots.reshape(4, 12)).reshape(size, 4, 3)
    image: Floats = weight @ rows
    return image


def _lit(rng: np.random.Generator, image: Floats) -> NDArray[np.uint8]:
    """``image`` under its own contrast, slope of light and sensor noise, as (size, size, 3) uint8."""
    along = np.linspace(-0.5, 0.5, len(image), dtype=np.float32)
    slope = rng.uniform(-_SLOPE, _SLOPE, 2).astype(np.float32)
    image *= np.float32(rng.uniform(*_CONTRAST))
    image += np.float32(0.5)
    image *= (1 + slope[0] * along[:, None] + slope[1] * along)[..., None]
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(_NOISE)
    pixels: NDArray[np.uint8] = np.clip(image * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return pixels


@functools.cache
def _distances() -> Floats:
    """Signed distance to each class's outline, negative inside: (10, _TABLE, _TABLE), y before x."""
    axis = (np.arange(_TABLE) + 0.5) * (2 * _EXTENT / _TABLE) - _EXTENT
    x, y = np.meshgrid(axis, axis)
    disc = np.hypot(x, y) - 0.8
    outlines = {
        "disc": disc,
        "ring": np.abs(disc) - 0.2,
        "post": _box(x, y, 0.3, 1.25),
        "slash": _box((x + y) * math.sqrt(0.5), (x - y) * math.sqrt(0.5), 0.3, 1.25),
        "cross": np.minimum(_box(x, y, 1.05, 0.28), _box(x, y, 0.28, 1.05)),
        "star": _polygon(x, y, _star(5, 1.15, 0.45)),
        "crescent": np.maximum(np.hypot(x, y) - 0.95, 0.8 - np.hypot(x - 0.5, y)),
        "dash": _box(x, y, 1.25, 0.3),
        "two dots": np.hypot(np.abs(x) - 0.68, y) - 0.5,
        "angle": np.minimum(_box(x - 0.2, y + 0.45, 0.9, 0.25), _box(x + 0.45, y - 0.2, 0.25, 0.9)),
    }
    return np.stack([outlines[name] for name in CLASSES]).astype(np.float32)


@functools.cache
def _unit_scale() -> Floats:
    """Per class, what a distance-table unit is multiplied by to give its shape the common area."""
    area = (_distances() < 0).mean(axis=(1, 2)) * (2 * _EXTENT) ** 2
    scale: Floats = np.sqrt(_AREA / area).astype(np.float32)
    return scale


def _box(x: Doubles, y: Doubles, half_width: float, half_height: float) -> Doubles:
    """Signed distance to an upright rectangle around the origin."""
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    distance: Doubles = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    return distance


def _star(points: int, outer: float, inner: float) -> Doubles:
    """The corners of a star, (2 * points, 2), one point upwards."""
    angle = np.arange(2 * points) * math.pi / points - math.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _polygon(x: Doubles, y: Doubles, corners: Doubles) -> Doubles:
    """Signed distance to a polygon: the nearest edge, negative where a ray crosses an odd number of edges."""
    distance = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - along * ex, y - ay - along * ey))
        # Where an edge is level the first factor is false everywhere, so its slope is never used.
        slope = ex / ey if ey != 0 else 0.0
        inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * slope)
    return np.where(inside, -distance, distance)
