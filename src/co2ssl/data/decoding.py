"""Image files to RGB arrays: OpenCV for plain JPEG, Pillow for everything else.

OpenCV decodes JPEG a little faster than Pillow and to the same pixels, but guesses where a file is odd. So only the
plain case goes that way (8 bits, one or three channels, complete), and Pillow is the authority for the rest.

Always at full size: a JPEG decoded at a half or a quarter is sooner there, but its crops differ from those of the whole
image by more than the views may differ from torchvision's.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# Twice Pillow's warning threshold, which is where Pillow itself refuses: about 179 million pixels, 0.5 GB as RGB.
MAX_PIXELS = 178_956_970

# The end-of-image marker must stand near the end; an earlier one may be a thumbnail's.
_TAIL_BYTES = 1024

# No image of MAX_PIXELS is larger in a file, not with 16 bits in each of four channels: such a file is something else,
# and would be read into memory before that is found out.
MAX_BYTES = 2**31

DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    KeyError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""How Pillow's decoders report broken files. Not MemoryError, which says nothing of the file."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):  # noqa: N818 - a fact about one file that the loader skips over, not a failure of the run
    """An image that cannot be used.

    Attributes:
        where: which image: a path, or a name and a number.
        reason: why, in words.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def read_image(path: str) -> NDArray[np.uint8]:
    """The image file at ``path`` as RGB, (H, W, 3) uint8. Raises :class:`BadImage`."""
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage(path, "not a file but a folder, pipe or device")
            if status.st_size > MAX_BYTES:
                raise BadImage(path, f"a file of {status.st_size / 1e9:.1f} GB, more than {MAX_PIXELS:,} pixels take")
            data = file.read()
    except OSError as error:
        raise BadImage(path, error.strerror or type(error).__name__) from error
    return decode(data, where=path)


def _open_at_once(path: str, flags: int) -> int:
    # Opening a pipe would wait for someone to write into it, without this flag; to a file it makes no difference.
    return os.open(path, flags | os.O_NONBLOCK)


def decode(data: bytes, *, where: str) -> NDArray[np.uint8]:
    """Encoded bytes as RGB, (H, W, 3) uint8, upright by their EXIF orientation where that can be read.

    Grey is repeated over the channels, palettes are looked up, transparency is dropped, CMYK is converted as Pillow
    does, 16 bits are scaled to 8, and of an animation the first frame is taken.

    Raises:
        BadImage: nothing in it, not an image, truncated, over :data:`MAX_PIXELS`, or 32-bit floating point.
    """
    if not data:
        raise BadImage(where, "the file is empty")
    if _is_plain_jpeg(data):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is not None:
            return cast("NDArray[np.uint8]", image)
    return _decode_with_pillow(data, where)


def from_pillow(image: Image.Image, *, where: str) -> NDArray[np.uint8]:
    """A Pillow image, loaded or not, as :func:`decode` gives it. Raises :class:`BadImage` as that does."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(where, f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    try:
        image.load()
        return np.array(_to_rgb(_upright(image), where))
    except DECODING_ERRORS as error:
        raise BadImage(where, f"cannot be decoded: {error}") from error


def _decode_with_pillow(data: bytes, where: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are checked here, and of odd metadata that does no harm.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return from_pillow(image, where=where)
    except UnidentifiedImageError as error:
        raise BadImage(where, "not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise BadImage(where, f"more than {MAX_PIXELS:,} pixels") from error
    except DECODING_ERRORS as error:
        raise BadImage(where, f"cannot be decoded: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """A loaded image turned by its EXIF orientation; as it is where that is damaged, which the pixels need not be.

    Pillow's ``exif_transpose`` also writes the EXIF block anew, which damage elsewhere in it would stop.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except DECODING_ERRORS:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":
        raise BadImage(where, "32-bit floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether this is a complete 8-bit JPEG of one or three channels and of allowed size."""
    if data[:3] != b"\xff\xd8\xff" or data.rfind(b"\xff\xd9", max(0, len(data) - _TAIL_BYTES)) < 0:
        return False
    position = 2
    while position + 10 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        # Start-of-frame markers are C0 to CF without C4 (Huffman tables), C8 (reserved) and CC (arithmetic tables).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7])
            width = int.from_bytes(data[position + 7 : position + 9])
            return data[position + 4] == 8 and data[position + 9] in (1, 3) and 0 < height * width <= MAX_PIXELS
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return False
