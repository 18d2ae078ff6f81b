from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from co2ssl.data import decoding
from co2ssl.data.decoding import BadImage, decode, from_pillow, read_image

HEIGHT, WIDTH = 37, 50


def picture() -> NDArray[np.uint8]:
    """Smooth, so that JPEG keeps it, and different at every corner, so that a turn shows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(picture())


def assert_close(decoded: NDArray[np.uint8], expected: NDArray[Any], mean: float) -> None:
    assert decoded.dtype == np.uint8
    assert decoded.shape == (*expected.shape[:2], 3)
    reference = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.abs(decoded.astype(int) - reference).mean() <= mean


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(rgb(), kind, **options), where="x"), picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True, "quality": 30}])
def test_jpeg_is_what_pillow_reads(options: dict[str, Any]) -> None:
    data = encode(rgb(), "JPEG", **options)
    assert decoding._is_plain_jpeg(data)
    assert_close(decode(data, where="x"), np.asarray(Image.open(io.BytesIO(data))), 0.3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns: dict[int, NDArray[np.uint8]] = {
        1: picture(),
        2: picture()[:, ::-1],
        3: picture()[::-1, ::-1],
        4: picture()[::-1],
        5: picture().transpose(1, 0, 2),
        6: np.rot90(picture(), -1),
        7: picture()[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture(), 1),
    }
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode(encode(rgb(), kind, exif=exif, **options), where="x")
    assert_close(decoded, turns[orientation], 1.5)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_exif_is_no_damage_to_the_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(rgb(), kind, exif=b"this is no EXIF block", **options)
    with pytest.raises(SyntaxError):
        Image.open(io.BytesIO(data)).getexif()
    np.testing.assert_array_equal(decode(data, where="x"), picture())
    np.testing.assert_array_equal(from_pillow(Image.open(io.BytesIO(data)), where="x"), picture())


def test_grey_is_repeated() -> None:
    grey = rgb().convert("L")
    assert_close(decode(encode(grey, "PNG"), where="x"), np.asarray(grey), 0)
    assert_close(decode(encode(grey, "JPEG", quality=95), where="x"), np.asarray(grey), 1.5)
    assert_close(decode(encode(grey, "PPM"), where="x"), np.asarray(grey), 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    decoded = decode(encode(Image.fromarray(deep), kind), where="x")
    assert_close(decoded, deep // 257, 0)
    assert (decoded.min(), decoded.max()) == (0, 255)


def test_sixteen_bit_colour_png() -> None:
    deep = picture().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data, where="x"), picture())


def test_palette_transparency_cmyk_and_bits() -> None:
    palette = rgb().quantize(32)
    assert_close(decode(encode(palette, "PNG"), where="x"), np.asarray(palette.convert("RGB")), 0)
    assert_close(decode(encode(palette, "PNG", transparency=3), where="x"), np.asarray(palette.convert("RGB")), 0)
    clear = rgb().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 7))
    assert_close(decode(encode(clear, "PNG"), where="x"), picture(), 0)
    grey = rgb().convert("LA")
    grey.putalpha(7)
    assert_close(decode(encode(grey, "PNG"), where="x"), np.asarray(rgb().convert("L")), 0)
    cmyk = rgb().convert("CMYK")
    data = encode(cmyk, "JPEG", quality=95)
    assert not decoding._is_plain_jpeg(data)
    assert_close(decode(data, where="x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 0)
    bits = rgb().convert("1")
    assert_close(decode(encode(bits, "PNG"), where="x"), np.asarray(bits) * 255, 0)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    decoded = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), where="x")
    assert_close(decoded, np.asarray(frames[0]), 0)


def test_one_pixel_and_a_long_image() -> None:
    for size in ((1, 1), (3000, 1), (1, 3000)):
        image = Image.new("RGB", size, (9, 80, 200))
        for kind in ("PNG", "JPEG"):
            assert decode(encode(image, kind), where="x").shape == (size[1], size[0], 3)


def test_the_ending_of_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really a png.jpg"
    path.write_bytes(encode(rgb(), "PNG"))
    np.testing.assert_array_equal(read_image(str(path)), picture())


JPEG = encode(rgb().resize((400, 300)), "JPEG")
PNG = encode(rgb(), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (JPEG[: len(JPEG) // 2], "decoded"),
        (JPEG[:30], "decoded|not an image"),
        (PNG[: len(PNG) // 2], "decoded"),
        (PNG[:20], "decoded|not an image"),
        (b"\xff\xd8\xff\xd9", "decoded|not an image"),
        (b"\xff\xd8\xff" + bytes(200) + b"\xff\xd9", "decoded|not an image"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_broken_images_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        decode(data, where="photos/x.jpg")
    assert caught.value.where == "photos/x.jpg"
    assert str(caught.value).startswith("photos/x.jpg: ")


def test_truncated_jpeg_with_a_whole_thumbnail_is_found_out() -> None:
    # The thumbnail ends with the marker that the image itself has lost.
    exif = b"Exif\0\0" + encode(rgb(), "JPEG")
    whole = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + JPEG[2:]
    assert decode(whole, where="x").shape == (300, 400, 3)
    with pytest.raises(BadImage):
        decode(whole[:-500], where="x")


def test_damage_that_pillow_reports_as_an_error_of_its_own() -> None:
    """As a RuntimeError, which elsewhere is a mistake in a program."""
    dds = encode(rgb(), "DDS")
    damaged = [dds[:80] + bytes(4) + dds[84:]]
    if features.check("avif"):
        avif = encode(rgb(), "AVIF")
        start = avif.index(b"mdat") + 4
        damaged.append(avif[:start] + bytes(len(avif) - start))
    for data in damaged:
        with pytest.raises(RuntimeError), Image.open(io.BytesIO(data)) as image:
            image.load()
        with pytest.raises(BadImage, match="x: cannot be decoded"):
            decode(data, where="x")


def test_what_says_nothing_of_the_file_is_no_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image, where: str) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "_to_rgb", full)
    with pytest.raises(MemoryError):
        decode(PNG, where="x")


def test_random_damage_never_raises_anything_else() -> None:
    generator = np.random.default_rng(0)
    avif = ["AVIF"] if features.check("avif") else []
    kinds = [JPEG, PNG, *(encode(rgb(), kind) for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM", *avif))]
    for original in kinds:
        # Much damage is seen when a file is opened, little when its pixels are decoded.
        for count in 25 * (1, 6):
            damaged = np.frombuffer(original, np.uint8).copy()
            places = generator.integers(0, min(len(damaged), 300), count)
            damaged[places] = generator.integers(0, 256, count)
            with contextlib.suppress(BadImage):
                assert decode(damaged.tobytes(), where="x").ndim == 3


def test_huge_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(BadImage, match="pixels"):
            decode(encode(rgb(), kind), where="x")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "folder.jpg", tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(BadImage, match=r"not a file but|Is a directory"):
            read_image(str(path))


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "film.jpg").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    with pytest.raises(BadImage, match=r"a file of 2\.1 GB"):
        read_image(str(tmp_path / "film.jpg"))


def test_a_small_file_that_would_be_a_huge_image_is_refused() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    with pytest.raises(BadImage, match="pixels"):
        decode(bomb + chunk(b"IEND", b""), where="x")


def test_a_pillow_image_as_a_file_of_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(rgb(), "PNG", exif=exif)
    np.testing.assert_array_equal(from_pillow(Image.open(io.BytesIO(data)), where="x"), decode(data, where="x"))
    np.testing.assert_array_equal(
        from_pillow(rgb().quantize(8), where="x"), np.asarray(rgb().quantize(8).convert("RGB"))
    )
    with pytest.raises(BadImage, match="x: cannot be decoded"):
        from_pillow(Image.open(io.BytesIO(JPEG[:-2000])), where="x")


def test_missing_file_is_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="No such file"):
        read_image(str(tmp_path / "gone.jpg"))
