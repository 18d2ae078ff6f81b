from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from co2ssl.data import cache
from co2ssl.data.cache import cached
from co2ssl.data.loader import Loader
from co2ssl.data.sources import ArraySource, BadImage, DataError, FolderSource, Source
from co2ssl.data.views import view_recipe
from tests.images import write_images


def folder_with_a_bad_one(folder: Path, count: int = 70) -> FolderSource:
    write_images(folder, count)
    (folder / "007.png").write_bytes(b"no image")
    return FolderSource(str(folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_pixels_names_and_reasons(tmp_path: Path, workers: int) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    kept = cached(source, tmp_path / "cache", workers=workers, say=lambda _: None)
    assert len(kept) == len(source)
    assert (kept.name, kept.classes, kept.fingerprint()) == (source.name, source.classes, source.fingerprint())
    for index in range(len(source)):
        if index == 7:
            with pytest.raises(BadImage) as said:
                source.load(index)
            with pytest.raises(BadImage) as again:
                kept.load(index)
            assert str(again.value) == str(said.value)
        else:
            np.testing.assert_array_equal(kept.load(index), source.load(index))


def test_no_file_is_read_twice(tmp_path: Path) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    expected = source.load(3)
    said: list[str] = []
    cached(source, tmp_path / "cache", workers=0, say=said.append)
    assert len(said) == 1
    shutil.rmtree(tmp_path / "images")
    kept = cached(source, tmp_path / "cache", workers=0, say=said.append)
    assert len(said) == 1
    np.testing.assert_array_equal(kept.load(3), expected)


def test_a_copy_in_another_process_opens_the_file_itself(tmp_path: Path) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    kept = cached(source, tmp_path / "cache", workers=0, say=lambda _: None)
    expected = kept.load(0)
    copied = pickle.dumps(kept)
    assert len(copied) < expected.size * len(source) / 4
    np.testing.assert_array_equal(pickle.loads(copied).load(0), expected)


def test_an_interrupted_build_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cached(source, tmp_path / "cache", workers=0, say=lambda _: None)
    kept = cached(source, tmp_path / "cache", workers=0, say=lambda _: None)
    np.testing.assert_array_equal(kept.load(69), source.load(69))


def test_a_disk_without_room_is_refused_before_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DataError, match=r"need about .* GB in .*, where 0\.0 GB are free: .*without --cache"):
        cached(source, tmp_path / "cache", workers=0, say=lambda _: None)
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write the decoded images to .*cache"):
        cached(source, tmp_path / "cache", workers=0, say=lambda _: None)


def test_views_are_the_same_bytes(tmp_path: Path) -> None:
    source: Source = folder_with_a_bad_one(tmp_path / "images")
    kept = cached(source, tmp_path / "cache", workers=0, say=lambda _: None)
    recipe = view_recipe("moco-v2", image_size=24)
    loaders = [Loader(images, recipe, batch_size=10, seed=3, workers=0) for images in (source, kept)]
    for left, right in zip(loaders[0].epoch(1), loaders[1].epoch(1), strict=True):
        np.testing.assert_array_equal(left.index, right.index)
        for one, other in zip(left.views, right.views, strict=True):
            np.testing.assert_array_equal(one, other)
    assert loaders[0].bad_images == loaders[1].bad_images


def test_large_images_are_decoded_few_at_once_and_the_file_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_with_a_bad_one(tmp_path / "images")
    decode = cache._Decoder.__call__
    held: list[int] = []

    def counted(decoder: cache._Decoder, task: NDArray[np.int64]) -> cache._Decoded:
        decoded = decode(decoder, task)
        held.append(len(decoded.pixels))
        return decoded

    monkeypatch.setattr(cache._Decoder, "__call__", counted)
    written = []
    for most in (cache.CHUNK_BYTES, 4 * 20 * 20 * 3 + 1, 1):
        monkeypatch.setattr(cache, "CHUNK_BYTES", most)
        held.clear()
        folder = tmp_path / str(most)
        cached(source, folder, workers=0, say=lambda _: None)
        assert max(held) <= max(most, 20 * 20 * 3)
        written.append([(path.name, path.read_bytes()) for path in sorted(folder.glob("*.bin"))])
    assert len(held) == len(source)
    assert written[0] == written[1] == written[2]


class Versioned(ArraySource):
    """A source of someone's own, with a fingerprint of its own making."""

    def __init__(self, shade: int, fingerprint: str) -> None:
        super().__init__("mine", np.full((3, 4, 5, 3), shade, np.uint8), None, None)
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint


def test_fingerprints_of_any_characters_have_files_of_their_own(tmp_path: Path) -> None:
    made = ["v1.2", "v1.3", "photos/2024", "..", "", "caf\udce9", "x" * 300]
    for shade, fingerprint in enumerate(made):
        kept = cached(Versioned(shade, fingerprint), tmp_path, workers=0, say=lambda _: None)
        assert kept.load(0).max() == shade
        assert kept.fingerprint() == fingerprint
    assert len(list(tmp_path.iterdir())) == 2 * len(made)
    # Those of the package's own sources are read where they were written before.
    ours = folder_with_a_bad_one(tmp_path / "images")
    cached(ours, tmp_path / "cache", workers=0, say=lambda _: None)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {f"images-{ours.fingerprint()}{ending}" for ending in (".bin", ".npz")}
