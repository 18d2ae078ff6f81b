from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from co2ssl.data import hashing
from co2ssl.data.inspection import Inspection, inspect_images
from co2ssl.data.sources import ArraySource, FolderSource, Source, Subset
from tests.data.odd_files import write_odd_files
from tests.images import write_classes, write_images


def inspected(source: Source, *, sample: int = 10_000, seconds: float = 1e9, workers: int = 0) -> Inspection:
    return inspect_images(source, sample=sample, seconds=seconds, seed=0, workers=workers, seen=lambda _: None)


def test_every_kind_of_bad_file_is_named_with_the_reason(tmp_path: Path) -> None:
    _, bad = write_odd_files(tmp_path)
    found = inspected(FolderSource(str(tmp_path)), workers=2)
    reasons = {os.path.relpath(which, tmp_path): why for which, why in found.bad}
    assert set(reasons) == bad
    for name, reason in (
        ("bad/zero bytes.jpg", "the file is empty"),
        ("bad/text.jpg", "not an image in a known format"),
        ("bad/truncated.jpg", "cannot be decoded: image file is truncated"),
        ("bad/bomb.png", "pixels"),
        ("links/itself.png", "Too many levels of symbolic links"),
        ("links/nowhere.png", "No such file or directory"),
    ):
        assert reason in reasons[name]
    assert found.looked_at == found.images
    assert len(found.good) == found.images - len(bad)
    assert not {os.path.relpath(which, tmp_path) for which, _ in (*found.exact_copies, *found.near_copies)} & bad


def test_formats_channels_and_what_is_unusual(tmp_path: Path) -> None:
    write_odd_files(tmp_path)
    found = inspected(FolderSource(str(tmp_path)))
    assert {"PNG", "JPEG", "GIF", "TIFF", "WEBP"} == set(found.formats)
    assert sum(found.formats.values()) == sum(found.channels.values()) == len(found.good)
    for channels in (
        "RGB", "RGBA", "grey", "grey with transparency", "palette", "CMYK", "16-bit grey", "one bit"
    ):  # fmt: skip
        assert found.channels[channels] >= 1, channels
    assert found.oddities == {
        "turned upright by EXIF": 7,
        "several frames, the first is used": 1,
        "another format than its name ends in": 2,
    }
    assert found.sizes is not None
    assert found.sizes.smallest == (1, 1)
    assert found.sizes.median == (20, 20)


def test_sizes_and_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=2, each=9)
    Image.new("RGB", (300, 100), "red").save(tmp_path / "class-1/wide.png")
    found = inspected(FolderSource(str(tmp_path)))
    sizes, balance = found.sizes, found.balance
    assert sizes is not None
    assert balance is not None
    assert (sizes.median, sizes.smallest, sizes.largest, sizes.short_side_tenth) == ((20, 20), (20, 20), (300, 100), 20)
    assert sizes.mean_pixels == pytest.approx((18 * 400 + 30_000) / 19)
    assert (balance.classes, balance.empty) == (2, 0)
    assert (balance.smallest, balance.largest) == (("class-0", 9), ("class-1", 10))
    on_disk = [path.stat().st_size for path in tmp_path.rglob("*.png")]
    assert found.file_bytes == (int(np.median(on_disk)), max(on_disk), sum(on_disk))


def test_copies_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, 12, side=60)
    (tmp_path / "the same.png").write_bytes((tmp_path / "004.png").read_bytes())
    with Image.open(tmp_path / "007.png") as image:
        image.resize((40, 40)).save(tmp_path / "smaller.jpg", quality=70)
    found = inspected(FolderSource(str(tmp_path)))
    names = [
        [tuple(Path(one).name for one in pair) for pair in pairs] for pairs in (found.exact_copies, found.near_copies)
    ]
    assert names == [[("the same.png", "004.png")], [("smaller.jpg", "007.png")]]


def test_a_sample_is_drawn_by_the_seed_and_says_how_many(tmp_path: Path) -> None:
    write_images(tmp_path, 60)
    source = FolderSource(str(tmp_path))
    found = inspected(source, sample=20)
    assert (found.images, found.looked_at) == (60, 20)
    assert found.good.tolist() == sorted(hashing.permutation(0, epoch=0, length=60)[:20].tolist())
    alike = inspected(source, sample=20, workers=2)
    np.testing.assert_array_equal(alike.good, found.good)
    assert inspected(source, seconds=0).looked_at == 16


def test_a_million_images_are_sampled() -> None:
    class Many(ArraySource):
        """A million times the same few images, of which it counts how often they are asked for."""

        asked = 0

        def __len__(self) -> int:
            return 1_000_000

        def load(self, index: int) -> np.typing.NDArray[np.uint8]:
            self.asked += 1
            return super().load(index % 3)

    many = Many("many", np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3), None, None)
    found = inspected(many, sample=100)
    assert (found.images, found.looked_at, many.asked) == (1_000_000, 100, 100)
    assert found.file_bytes is None
    assert found.formats == {}


def test_a_part_of_a_folder_has_files(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    found = inspected(Subset(FolderSource(str(tmp_path)), np.array([1, 4])))
    assert found.formats == {"PNG": 2}
    assert found.balance is None


def test_a_folder_of_bad_files_alone(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"none")
    found = inspected(FolderSource(str(tmp_path)))
    assert found.sizes is None
    assert len(found.bad) == 1
