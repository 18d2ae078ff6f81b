"""A nested folder with one of every kind of file that people have among their images."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.images import write_images

WHOLE = 184
"""Plain images beside the odd ones, so that the bad ones are fewer than one in twenty."""


def write_odd_files(folder: Path) -> tuple[set[str], set[str]]:
    """Fills ``folder``. Returns the relative paths of the odd files that can be read, and of those that cannot."""
    for name in ("a", "b/c/d/e", "日本/Ünïcode дом"):
        write_images(folder / name, WHOLE // 3 + 1, seed=len(name))
    good = _orientations(folder) | _kinds(folder) | _shapes(folder)
    _passed_over(folder)
    bad = _broken(folder) | _links(folder)
    if sys.platform.startswith("linux"):
        with open(os.path.join(os.fsencode(folder), b"caf\xe9.png"), "wb") as file:
            picture().save(file, "PNG")
        with open(os.path.join(os.fsencode(folder), b"bad-\xff\xfe.png"), "wb") as file:
            file.write(b"no image")
        good.add(os.fsdecode(b"caf\xe9.png"))
        bad.add(os.fsdecode(b"bad-\xff\xfe.png"))
    return good, bad


def picture(width: int = 50, height: int = 37) -> Image.Image:
    """Smooth, and different at every corner."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 5, y * 6, (x + y) * 2], axis=-1).astype(np.uint8))


def _put(folder: Path, name: str, image: Image.Image, kind: str, **options: object) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, kind, **options)
    return name


def _orientations(folder: Path) -> set[str]:
    names = set()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        names.add(_put(folder, f"turned/{orientation}.jpg", picture(), "JPEG", exif=exif, quality=95))
    return names


def _kinds(folder: Path) -> set[str]:
    deep = np.linspace(0, 65535, 37 * 50).reshape(37, 50).astype(np.uint16)
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    return {
        _put(folder, "kinds/a png.jpg", picture(), "PNG"),
        _put(folder, "kinds/a jpeg.PNG", picture(), "JPEG"),
        _put(folder, "kinds/grey.png", picture().convert("L"), "PNG"),
        _put(folder, "kinds/grey.jpeg", picture().convert("L"), "JPEG"),
        _put(folder, "kinds/palette.png", picture().quantize(16), "PNG"),
        _put(folder, "kinds/palette, transparent.png", picture().quantize(16), "PNG", transparency=3),
        _put(folder, "kinds/rgba.png", picture().convert("RGBA"), "PNG"),
        _put(folder, "kinds/la.png", picture().convert("LA"), "PNG"),
        _put(folder, "kinds/cmyk.jpg", picture().convert("CMYK"), "JPEG"),
        _put(folder, "kinds/16 bit.png", Image.fromarray(deep), "PNG"),
        _put(folder, "kinds/two frames.gif", frames[0], "GIF", save_all=True, append_images=frames[1:]),
        _put(folder, "kinds/bilevel.tif", picture().convert("1"), "TIFF"),
        _put(folder, "kinds/photo.WebP", picture(), "WEBP"),
    }


def _shapes(folder: Path) -> set[str]:
    return {
        _put(folder, "shapes/one pixel.png", picture(1, 1), "PNG"),
        _put(folder, "shapes/long.png", picture(5_000, 1), "PNG"),
        _put(folder, "shapes/tall.jpg", picture(1, 5_000), "JPEG"),
    }


def _passed_over(folder: Path) -> None:
    """Files and folders that are no images of the set."""
    for name in (".DS_Store", "b/Thumbs.db", "b/desktop.ini", "._x.jpg", "__MACOSX/a/x.jpg", ".git/x.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no image")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.jpg").mkdir()


def _broken(folder: Path) -> set[str]:
    whole = io.BytesIO()
    picture(400, 300).save(whole, "JPEG")
    broken = {
        "bad/truncated.jpg": whole.getvalue()[:-900],
        "bad/zero bytes.jpg": b"",
        "bad/text.jpg": b"Dear diary, this is no photograph.",
        "bad/bomb.png": _bomb(),
    }
    (folder / "bad").mkdir()
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return set(broken)


def _bomb() -> bytes:
    """A small file that says it is 50,000 x 50,000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def _links(folder: Path) -> set[str]:
    """Links that loop, and one that leads nowhere; those called images are bad images."""
    (folder / "links").mkdir()
    (folder / "links/up").symlink_to(folder)
    (folder / "links/itself").symlink_to(folder / "links/itself")
    (folder / "links/itself.png").symlink_to(folder / "links/itself.png")
    (folder / "links/nowhere.png").symlink_to(folder / "nowhere")
    return {"links/itself.png", "links/nowhere.png"}
