from __future__ import annotations

import gzip
import hashlib
from fractions import Fraction
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from co2ssl.data.sources import ArraySource, DataError, FolderSource, Source
from co2ssl.errors import UsageError
from co2ssl.evaluate import label_subsets as module
from co2ssl.evaluate.label_share import share_of
from co2ssl.evaluate.label_subsets import PUBLISHED_HASHES, draw_subset, fetched_list, listed_subset, names_of
from tests.images import write_classes, write_images

SPEC = Path(__file__).parents[3] / "shared" / "spec"


def labelled(labels: NDArray[np.int64], num_classes: int) -> Source:
    classes = tuple(f"{number:04}" for number in range(num_classes))
    return ArraySource("many", np.zeros((len(labels), 1, 1, 3), np.uint8), labels, classes)


def uneven(num: int = 997) -> Source:
    """Seven classes of 100 to 200 images, in no order."""
    return labelled(np.random.default_rng(5).choice(7, num, p=np.array([2, 2, 2, 1, 1, 1, 1]) / 10), 7)


@pytest.mark.parametrize("labels", ["1%", "5%", "10%", "33.3%", "0.75%"])
def test_every_class_has_as_many_images_up_to_one(labels: str) -> None:
    source = uneven()
    subset = draw_subset(source, labels, seed=0)
    assert source.labels is not None
    counts = np.bincount(source.labels[subset.places], minlength=7)
    assert counts.sum() == len(subset) == int(float(labels.rstrip("%")) * 997 / 100)
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(subset.places, np.unique(subset.places))


def test_the_counts_of_imagenet_are_those_of_the_published_lists() -> None:
    # 1,281,167 images: 12,811 (189 classes of 12, 811 of 13) and 128,116 (884 of 128, 116 of 129).
    source = labelled(np.arange(1_281_167) % 1000, 1000)
    assert source.labels is not None
    for labels, expected in (("1%", {12: 189, 13: 811}), ("10%", {128: 884, 129: 116})):
        counts = np.bincount(source.labels[draw_subset(source, labels, seed=3).places])
        assert dict(zip(*np.unique(counts, return_counts=True), strict=True)) == expected


def test_a_seed_is_one_draw_and_draws_have_nothing_to_do_with_each_other() -> None:
    source = labelled(np.arange(4000) % 4, 4)
    first, again, other = (draw_subset(source, "10%", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.places, again.places)
    assert first.described() == again.described() != other.described()
    assert (first.seed, other.origin) == (0, "10% drawn with seed 1")
    # Of independent draws of a tenth, a tenth is shared: 40 of 400, with a standard deviation below 6.
    for one, two in ((first, other), (first, draw_subset(source, "1%", seed=0))):
        shared = len(np.intersect1d(one.places, two.places))
        assert abs(shared - len(two) / 10) < 4 * 6


def test_every_image_is_drawn_as_often() -> None:
    source = labelled(np.arange(60) % 3, 3)
    times = np.zeros(60)
    for seed in range(600):
        times[draw_subset(source, "10%", seed=seed).places] += 1
    # 60 of 600 draws each, with a standard deviation of 7.3.
    assert np.abs(times - 60).max() < 5 * 7.3


@pytest.mark.parametrize("labels", ["0%", "-1%", "101%", "10", "ten%", "%", "1/0%", "", "nan%"])
def test_what_is_no_share(labels: str) -> None:
    with pytest.raises(UsageError, match="give 1%, 10%"):
        share_of(labels)
    with pytest.raises(UsageError):
        draw_subset(uneven(), labels, seed=0)


def test_shares_are_exact() -> None:
    assert int(0.29 * 100) == 28
    assert len(draw_subset(labelled(np.arange(100) % 2, 2), "29%", seed=0)) == 29
    assert (share_of("100%"), share_of(" 0.5% ")) == (Fraction(1), Fraction(1, 200))


def test_too_small_a_share_says_which_would_do() -> None:
    with pytest.raises(
        UsageError, match=r"1% of the 80 images of many are 0, fewer than its 3 classes.*at least 3.75%"
    ):
        draw_subset(labelled(np.arange(80) % 3, 3), "1%", seed=0)
    assert len(draw_subset(labelled(np.arange(80) % 3, 3), "3.75%", seed=0)) == 3


def test_a_class_with_fewer_images_than_are_needed() -> None:
    source = labelled(np.repeat([0, 1, 2], [90, 8, 2]), 3)
    with pytest.raises(DataError, match=r"are 10 images of each; '0001' has 8, '0002' has 2: give a smaller"):
        draw_subset(source, "30%", seed=0)
    assert len(draw_subset(source, "6%", seed=0)) == 6
    # The one or two that do not divide by three come from classes that have more than two.
    for seed in range(20):
        assert len(draw_subset(source, "7%", seed=seed)) == 7
        assert len(draw_subset(source, "8%", seed=seed)) == 8


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    """Two classes of four images, with the same names in both, and one more in the second."""
    write_classes(tmp_path / "data", each=4)
    write_images(tmp_path / "data" / "class-1" / "deep", 1)
    (tmp_path / "data" / "class-1" / "deep" / "000.png").rename(tmp_path / "data" / "class-1" / "deep" / "only.png")
    return FolderSource(str(tmp_path / "data"))


def write_list(folder: Path, *lines: str, name: str = "list.txt") -> Path:
    text = "".join(f"{line}\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / name


@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz"])
def test_a_list_names_files_by_as_much_of_their_path_as_it_likes(
    name: str, source: FolderSource, tmp_path: Path
) -> None:
    lines = ("only.png", "class-0/002.png", "", f"  {source.folder}/class-1/001.png  ")
    subset = listed_subset(source, write_list(tmp_path, *lines, name=name))
    found = [source.describe(int(place)).removeprefix(source.folder + "/") for place in subset.places]
    assert sorted(found) == ["class-0/002.png", "class-1/001.png", "class-1/deep/only.png"]
    assert list(subset.places) == sorted(subset.places)
    assert (subset.seed, subset.left_out) == (None, 0)


def test_a_draw_is_found_again_from_its_names(source: FolderSource, tmp_path: Path) -> None:
    subset = draw_subset(source, "50%", seed=1)
    again = listed_subset(source, write_list(tmp_path, *names_of(source, subset)))
    assert np.array_equal(again.places, subset.places)
    unnamed = uneven(100)
    subset = draw_subset(unnamed, "20%", seed=1)
    again = listed_subset(unnamed, write_list(tmp_path, *names_of(unnamed, subset)))
    assert again.described()["subset_hash"] == subset.described()["subset_hash"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("class-0/000.png", "n01.JPEG", "class-1/009.png", "only.png"),
            r"lacks 2 of the 4 .*'n01.JPEG', 'class-1/009",
        ),
        (("000.png", "only.png"), r"names '000.png', which is .*class-0/000.png as well as .*class-1/000.png"),
        (("only.png", "class-0/000.png", "only.png"), r"names 'only.png' more than once"),
        (("only.png", "class-0/000.png", "deep/only.png"), r"one image twice, as 'only.png' and 'deep/only.png'"),
        (("class-0/000.png",), r"no image of 'class-1'"),
        (("", " "), "names no images"),
    ],
)
def test_lists_that_do_not_fit(lines: tuple[str, ...], words: str, source: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        listed_subset(source, write_list(tmp_path, *lines))


def test_lists_that_cannot_be_read(source: FolderSource, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the list .*No such file"):
        listed_subset(source, tmp_path / "none.txt")
    whole = write_list(tmp_path, "only.png", "class-0/000.png", name="list.txt.gz").read_bytes()
    for damaged in (b"only.png\n", whole[:-9]):
        (tmp_path / "list.txt.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            listed_subset(source, tmp_path / "list.txt.gz")
    with pytest.raises(UsageError, match="leave --labels out"):
        listed_subset(source, write_list(tmp_path, "only.png", "class-0/000.png"), "10%")


def wnids(tmp_path: Path) -> tuple[FolderSource, tuple[str, ...]]:
    """Two of three classes of a small ImageNet, and a list for all three."""
    for wnid in ("n00000001", "n00000002"):
        write_images(tmp_path / "imagenet" / wnid, 3)
        for path in (tmp_path / "imagenet" / wnid).iterdir():
            path.rename(path.with_name(f"{wnid}_{path.stem}.JPEG"))
    names = ("n00000001_001.JPEG", "n00000003_002.JPEG", "n00000002_000.JPEG")
    return FolderSource(str(tmp_path / "imagenet")), names


def publish(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Make a text SimCLR's list of 1%."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    monkeypatch.setitem(module.PUBLISHED_HASHES, "1%", digest)


def test_of_a_published_list_classes_that_the_data_lack_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, names = wnids(tmp_path)
    with pytest.raises(DataError, match="lacks 1 of the 3"):
        listed_subset(source, write_list(tmp_path, *names))
    publish(monkeypatch, *names)
    for name in ("any.txt", "simclr-1percent.txt.gz"):
        subset = listed_subset(source, write_list(tmp_path, *names, name=name), "1%")
        assert (len(subset), subset.left_out, subset.origin) == (2, 1, "SimCLR's 1percent.txt")
    with pytest.raises(UsageError, match=r"is SimCLR's list of 1%: say --labels 1%"):
        listed_subset(source, tmp_path / "any.txt", "10%")
    publish(monkeypatch, *names, "n00000001_777.JPEG")
    with pytest.raises(DataError, match=r"lacks 1 of the 3 images .*'n00000001_777.JPEG'"):
        listed_subset(source, write_list(tmp_path, *names, "n00000001_777.JPEG"), "1%")


def test_a_published_name_with_another_text_is_refused(tmp_path: Path) -> None:
    source, names = wnids(tmp_path)
    for name in ("1percent.txt", "simclr-10percent.txt.gz"):
        with pytest.raises(DataError, match="its text is another"):
            listed_subset(source, write_list(tmp_path, *names, name=name))


def test_published_lists_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, target: str, *, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        assert not progress
        Path(target).write_text("names\n")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert fetched_list("10%") == fetched_list("10%")
    assert [(url.rpartition("/")[2], digest) for url, digest in asked] == [("10percent.txt", PUBLISHED_HASHES["10%"])]
    for share, words in (("5%", "none of 5%"), (None, "say --labels 1% or --labels 10%")):
        with pytest.raises(UsageError, match=words):
            fetched_list(share)

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(DataError, match=r"cannot be fetched .*give --label-list PATH"):
        fetched_list("1%")


@pytest.mark.skipif(not (SPEC / "simclr-1percent.txt.gz").is_file(), reason="needs the lists beside the specification")
def test_the_hashes_are_those_of_the_published_lists() -> None:
    for labels, name, count in (("1%", "simclr-1percent.txt.gz", 12_811), ("10%", "simclr-10percent.txt.gz", 128_116)):
        text = gzip.decompress((SPEC / name).read_bytes())
        assert hashlib.sha256(text).hexdigest() == PUBLISHED_HASHES[labels]
        assert len(text.splitlines()) == count
