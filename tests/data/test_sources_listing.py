from __future__ import annotations

import gc
import os
import pickle
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from co2ssl.data.sources import DataError, FolderSource, folder, open_source
from co2ssl.data.sources.files import Paths
from co2ssl.data.sources.listing import list_images, listing_path, read_listing, write_listing

NAMES = ["a.png", "b/1.png", "b/2.png", "b/c/d/3.png", "e/4.png"]
LONG_AGO = 1_600_000_000


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five empty files that are called images, in folders that have not changed for long."""
    root = tmp_path / "photos"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    settle(root)
    return root


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def settle(root: Path) -> None:
    """As if nothing had happened in these folders for years."""
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            os.utime(path, (LONG_AGO, LONG_AGO))


def names(source: FolderSource) -> list[str]:
    return [os.path.relpath(source.describe(index), source.folder) for index in range(len(source))]


def opened(root: Path, kept: Path) -> FolderSource:
    source = open_source(str(root), listing_folder=kept)
    assert isinstance(source, FolderSource)
    return source


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which folders were listed, as it happens."""
    found: list[str] = []

    def counted(root: str, only: object = None) -> object:
        found.append(root)
        return list_images(root, only)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "list_images", counted)
    return found


def test_the_second_start_does_not_look_again(photos: Path, kept: Path, looks: list[str]) -> None:
    first = opened(photos, kept)
    assert names(first) == sorted(NAMES, key=os.fsencode)
    second = opened(photos, kept)
    assert looks == [str(photos)]
    assert names(second) == names(first)
    assert second.fingerprint() == first.fingerprint() == FolderSource(str(photos)).fingerprint()


def test_labels_come_from_a_kept_listing_too(photos: Path, kept: Path) -> None:
    (photos / "a.png").unlink()
    settle(photos)
    for _ in range(2):
        source = opened(photos, kept)
        assert source.classes == ("b", "e")
        assert source.labels is not None
        assert source.labels.tolist() == [0, 0, 0, 1]


def add(root: Path) -> None:
    (root / "b/c/d/new.png").touch()


def remove(root: Path) -> None:
    (root / "b/2.png").unlink()


def rename(root: Path) -> None:
    (root / "b/c/d/3.png").rename(root / "b/c/d/three.png")


def rename_folder(root: Path) -> None:
    (root / "b/c").rename(root / "b/k")


def remove_folder(root: Path) -> None:
    (root / "e/4.png").unlink()
    (root / "e").rmdir()


def add_folder(root: Path) -> None:
    (root / "e/new").mkdir()
    (root / "e/new/5.png").touch()


def exchange(root: Path) -> None:
    """Two folders change places, and everything keeps its times."""
    (root / "b/c").rename(root / "held")
    (root / "e").rename(root / "b/c")
    (root / "held").rename(root / "e")
    settle(root)


@pytest.mark.parametrize("change", [add, remove, rename, rename_folder, remove_folder, add_folder, exchange])
def test_a_changed_folder_is_looked_through_again(
    photos: Path, kept: Path, looks: list[str], change: Callable[[Path], None]
) -> None:
    before = names(opened(photos, kept))
    change(photos)
    after = opened(photos, kept)
    there = {str(path.relative_to(photos)) for path in photos.rglob("*.png")}
    assert names(after) == sorted(there, key=os.fsencode) != before
    assert len(looks) == 2
    # And what was found is kept in turn.
    settle(photos)
    opened(photos, kept)
    looks.clear()
    opened(photos, kept)
    assert looks == []


def test_a_folder_behind_a_link_is_watched_too(tmp_path: Path, photos: Path, kept: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else/x.png").touch()
    (photos / "link").symlink_to(tmp_path / "else")
    settle(photos)
    settle(tmp_path / "else")
    assert names(opened(photos, kept))[-1] == "link/x.png"
    (tmp_path / "else/y.png").touch()
    assert names(opened(photos, kept))[-2:] == ["link/x.png", "link/y.png"]


def test_a_folder_that_has_just_changed_is_not_trusted(photos: Path, kept: Path, looks: list[str]) -> None:
    (photos / "e/5.png").touch()
    opened(photos, kept)
    # A file that comes within the same tick of the clock leaves the time of its folder as it is.
    changed = (photos / "e").stat()
    (photos / "e/6.png").touch()
    os.utime(photos / "e", ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert "e/6.png" in names(opened(photos, kept))
    assert len(looks) == 2


def test_several_sets_are_kept_side_by_side(photos: Path, kept: Path, looks: list[str]) -> None:
    for _ in range(2):
        assert len(opened(photos / "b", kept)) == 3
        assert len(opened(photos / "e", kept)) == 1
        assert len(FolderSource(str(photos), only=["e"], listing_folder=kept)) == 1
        assert len(opened(photos, kept)) == 5
    assert len(looks) == 4
    assert len(list(kept.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"not a zip", b"PK\x03\x04 cut short", pickle.dumps({"a": 1})])
def test_a_damaged_listing_is_made_anew(photos: Path, kept: Path, looks: list[str], damage: bytes) -> None:
    whole = names(opened(photos, kept))
    (path,) = kept.iterdir()
    path.write_bytes(damage)
    assert names(opened(photos, kept)) == whole
    assert names(opened(photos, kept)) == whole
    assert len(looks) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"text": np.zeros(3, np.uint8)},
        {"lengths": np.array([40, -7], np.int32)},
        {"lengths": np.zeros((2, 2), np.int32)},
        {"stamps": np.zeros((1, 2), np.int64)},
        {"key": np.zeros(64, np.uint8)},
        {"folders": np.array(["b"], dtype=object)},
    ],
)
def test_parts_that_do_not_fit_are_refused(photos: Path, kept: Path, change: dict[str, np.ndarray]) -> None:
    write_listing(list_images(str(photos)), kept, str(photos))
    assert read_listing(kept, str(photos)) is not None
    path = listing_path(kept, str(photos))
    with np.load(path) as stored:
        parts = {name: stored[name] for name in stored.files}
    np.savez(path, **(parts | change))
    assert read_listing(kept, str(photos)) is None


def test_a_listing_that_cannot_be_kept(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write the list of images to .*none/listing-"):
        FolderSource(str(photos)).keep_listing(tmp_path / "none")
    # A folder that is not there, or may not be written to, is no reason not to look at the images.
    assert len(FolderSource(str(photos), listing_folder=tmp_path / "none")) == 5


def reached_from(root: object) -> int:
    """Objects that one holds, however deeply, but for classes, modules and code."""
    apart = (type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType)
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, apart):
            continue
        seen[id(one)] = one
        waiting.extend(gc.get_referents(one))
    return len(seen)


def test_a_large_folder_is_as_few_objects_as_a_small_one(tmp_path: Path) -> None:
    counts = {}
    for each in (20, 2_000):
        root = tmp_path / str(each)
        for number in range(10):
            (root / f"class-{number}").mkdir(parents=True)
            for image in range(each):
                (root / f"class-{number}" / f"{image}.jpg").touch()
        source = FolderSource(str(root))
        assert len(source) == 10 * each
        counts[each] = reached_from(source)
    assert counts[2_000] == counts[20] < 100


def test_paths_in_flat_arrays() -> None:
    names = [b"a", b"", "émile/日本.jpg".encode(), b"\xff\xfe", b"a/b"]
    paths = Paths.of(names)
    assert list(paths) == names == [paths[index] for index in range(len(paths))]
    assert paths[-1] == b"a/b"
    for index in (5, -6):
        with pytest.raises(IndexError):
            paths[index]
    assert len(Paths.of([])) == 0
