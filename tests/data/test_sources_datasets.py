from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from co2ssl.data.loader import evaluation_batches
from co2ssl.data.sources import BadImage, DataError, DatasetSource, Source
from tests.images import write_classes

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), dtype=np.uint8)
PIXELS[:, 0, 0] = [0, 255, 7]


class Made(Dataset[Any]):
    """Five items made from five arrays (7, 6, 3)."""

    def __init__(self, make: Callable[[Any], Any], **attributes: Any) -> None:
        self.make = make
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Any:
        return self.make(PIXELS[index])


def channels_first(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize(
    "make",
    [
        Image.fromarray,
        lambda pixels: pixels,
        lambda pixels: (pixels, 3),
        lambda pixels: [Image.fromarray(pixels), "dog", {"more": 1}],
        channels_first,
        lambda pixels: (channels_first(pixels).float() / 255, torch.tensor(3)),
        lambda pixels: channels_first(pixels).double() / 255,
        lambda pixels: pixels.astype(np.float32) / 255,
        lambda pixels: np.dstack([pixels, np.full((7, 6), 9, np.uint8)]),
        lambda pixels: pixels[:, ::-1].copy()[:, ::-1],
    ],
)
def test_every_kind_of_colour_image(make: Callable[[Any], Any]) -> None:
    source = DatasetSource(Made(make))
    assert isinstance(source, Source)
    assert len(source) == 5
    for index, expected in enumerate(PIXELS):
        image = source.load(index)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)
    assert (source.name, source.describe(3)) == ("Made", "Made image 3")


@pytest.mark.parametrize(
    "make",
    [
        lambda pixels: pixels[..., 0],
        lambda pixels: pixels[..., :1],
        lambda pixels: torch.from_numpy(pixels[..., 0]),
        lambda pixels: torch.from_numpy(pixels[..., 0])[None],
        lambda pixels: Image.fromarray(pixels[..., 0]),
    ],
)
def test_grey_is_repeated(make: Callable[[Any], Any]) -> None:
    source = DatasetSource(Made(make))
    np.testing.assert_array_equal(source.load(2), PIXELS[2][..., :1].repeat(3, axis=2))


@pytest.mark.filterwarnings("error")
def test_images_can_be_written_to_whatever_the_data_set_gives() -> None:
    locked = PIXELS.copy()
    locked.setflags(write=False)
    grey = locked[..., 0]
    for dataset in (locked, grey, locked[:, ::-1], list(locked), [Image.fromarray(pixels) for pixels in PIXELS]):
        image = DatasetSource(dataset).load(1)
        assert image.flags.writeable
        assert image.flags.c_contiguous
        torch.from_numpy(image)
    image = DatasetSource(PIXELS).load(1)
    image[:] = 0
    assert PIXELS[1].any()


def test_half_precision_comes_near() -> None:
    for image in (channels_first(PIXELS[0]) / 255).half(), (channels_first(PIXELS[0]) / 255).bfloat16():
        assert np.abs(DatasetSource([image]).load(0).astype(int) - PIXELS[0]).max() <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pixels: {"image": pixels}, r"Made image 0 is a dict; give a Pillow image, an array or a tensor"),
        (lambda _: "photo.jpg", r"is a str"),
        (lambda _: (), r"is a tuple"),
        (lambda pixels: pixels[None], r"ndarray of shape \(1, 7, 6, 3\); give \(H, W\) or \(H, W, C\)"),
        (lambda pixels: torch.from_numpy(pixels), r"Tensor of shape \(7, 6, 3\); give \(H, W\) or \(C, H, W\)"),
        (lambda pixels: pixels.astype(np.int64), r"pixels of type int64; give uint8, or floating"),
        (lambda pixels: pixels.astype(np.float32), r"values from 0 to 255; give images before normalisation"),
        (lambda pixels: pixels / 255 - 0.5, r"values from -0.5 to 0.5; give images before normalisation"),
        (lambda pixels: pixels * np.nan, r"values from nan to nan"),
    ],
)
def test_items_that_are_no_images(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetSource(Made(make))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(PIXELS)

    def __len__(self) -> int:
        return 5


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return PIXELS[0]


def test_data_sets_that_cannot_be_numbered() -> None:
    for dataset in (Endless(), Unsized(), {1, 2}):
        with pytest.raises(DataError, match=r"has no length or no numbered items"):
            DatasetSource(dataset)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="list holds no images"):
        DatasetSource([])


def test_random_transforms_are_found_out(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=2, each=6)
    torch.manual_seed(0)
    for transform in (v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(0.5), v2.ColorJitter(0.4)):
        with pytest.raises(DataError, match=r"ImageFolder change from one reading to the next; leave its random"):
            DatasetSource(ImageFolder(tmp_path, transform=transform))
    assert len(DatasetSource(ImageFolder(tmp_path, transform=v2.Resize(8)))) == 12


def test_a_list_of_images_and_one_array_of_them() -> None:
    for dataset in ([Image.fromarray(pixels) for pixels in PIXELS], PIXELS):
        source = DatasetSource(dataset, name="mine")
        np.testing.assert_array_equal(source.load(4), PIXELS[4])
        assert source.describe(4) == "mine image 4"


def test_labels_and_classes_of_torchvisions_data_sets(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=3, each=2)
    folder = ImageFolder(tmp_path)
    source = DatasetSource(folder)
    assert source.classes == ("class-0", "class-1", "class-2")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    part = DatasetSource(Subset(Subset(folder, [5, 0, 3]), [0, 2]))
    assert part.classes == source.classes
    assert part.labels is not None
    assert part.labels.tolist() == [2, 1]
    np.testing.assert_array_equal(part.load(1), source.load(3))


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, np.uint8])
def test_labels_in_any_array(kind: Callable[[Any], Any]) -> None:
    source = DatasetSource(Made(Image.fromarray, labels=kind([1, 0, 1, 1, 0])))
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [1, 0, 1, 1, 0]
    assert source.classes == ("0", "1")


def test_classes_are_brought_into_order() -> None:
    source = DatasetSource(Made(Image.fromarray, targets=[2, 0, 1, 2, 0], classes=["dog", "ant", "cat"]))
    assert source.classes == ("ant", "cat", "dog")
    assert source.labels is not None
    assert [source.classes[label] for label in source.labels] == ["cat", "dog", "ant", "cat", "dog"]
    many = DatasetSource(Made(Image.fromarray, targets=[10, 9, 0, 2, 1]))
    assert many.labels is not None
    assert many.labels.tolist() == [10, 9, 0, 2, 1]
    assert many.classes is not None
    assert many.classes[9:] == ("09", "10")


@pytest.mark.parametrize(
    "targets",
    [None, [0, 1], [-1, 0, 0, 0, 0], [0.5, 1, 1, 1, 1], [[0], [1, 2], [0], [1], [1]], np.zeros((5, 20), int), "abcde"],
)
def test_what_is_no_label_is_not_taken_for_one(targets: object) -> None:
    source = DatasetSource(Made(Image.fromarray, targets=targets))
    assert source.labels is None
    assert source.classes is None


def test_the_fingerprint_follows_images_and_length() -> None:
    whole = DatasetSource(PIXELS)
    assert whole.fingerprint() == DatasetSource(Made(Image.fromarray)).fingerprint()
    others = {DatasetSource(PIXELS[:4]).fingerprint(), DatasetSource(PIXELS[::-1]).fingerprint()}
    assert len(others | {whole.fingerprint()}) == 3


def test_an_image_that_the_data_set_cannot_read_is_a_bad_one() -> None:
    whole = io.BytesIO()
    Image.fromarray(PIXELS[0]).resize((300, 300)).save(whole, "PNG")

    def opened(pixels: Any) -> Image.Image:
        if pixels is PIXELS[1] or (pixels == PIXELS[1]).all():
            raise OSError("the disk is on fire")
        if (pixels == PIXELS[3]).all():
            return Image.open(io.BytesIO(whole.getvalue()[:-500]))
        if (pixels == PIXELS[2]).all():
            return np.zeros((0, 4, 3), np.uint8)  # type: ignore[return-value]
        return Image.fromarray(pixels)

    source = DatasetSource(Made(opened))
    for index, reason in ((1, "cannot be read: the disk is on fire"), (2, "no pixels"), (3, "cannot be decoded")):
        with pytest.raises(BadImage, match=rf"Made image {index}: {reason}"):
            source.load(index)
    assert source.load(4).shape == (7, 6, 3)


@pytest.mark.parametrize(
    "error",
    [
        Image.DecompressionBombError("too many pixels"),
        RuntimeError("Failed to decode frame 0"),
        NotImplementedError("Unimplemented pixel format 99"),
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3 while decompressing data"),
        KeyError("no such mode"),
    ],
)
def test_whatever_pillow_reports_is_a_bad_image(error: Exception) -> None:
    def opened(pixels: Any) -> Any:
        if (pixels == PIXELS[2]).all():
            raise error
        return pixels

    source = DatasetSource(Made(opened))
    with pytest.raises(BadImage, match=r"Made image 2: cannot be read: ") as caught:
        source.load(2)
    assert str(error) in caught.value.reason


def test_an_odd_item_that_was_not_looked_at_is_a_bad_image() -> None:
    items: list[Any] = [*PIXELS] * 8
    items[1] = PIXELS[1].astype(np.uint16)
    items[2] = PIXELS[2][..., :2]
    items[3] = PIXELS[3] / np.float64(250)
    items[4] = {"image": PIXELS[4]}
    source = DatasetSource(items)
    bad: list[tuple[str, str]] = []
    batches = evaluation_batches(
        source, image_size=6, resize=None, batch_size=40, workers=0, max_bad_share=0.1, bad_images=bad
    )
    ((_, _, index),) = batches
    assert index.tolist() == [0, *range(5, 40)]
    assert bad == [
        ("list image 1", "has pixels of type uint16; give uint8, or floating point from 0 to 1"),
        ("list image 2", "is a ndarray of shape (7, 6, 2); give (H, W) or (H, W, C) with 1, 3 or 4 channels"),
        ("list image 3", "has values from 0 to 1.02; give images before normalisation, from 0 to 1"),
        ("list image 4", "is a dict; give a Pillow image, an array or a tensor"),
    ]


def test_a_mistake_in_the_data_set_surfaces_as_one() -> None:
    with pytest.raises(ZeroDivisionError):
        DatasetSource(Made(lambda _: 1 // 0))
    # These may be a damaged image, where it is not every one.
    with pytest.raises(DataError, match=r"none of 5 images of Made .* the first: Made image 0: .*'image'") as caught:
        DatasetSource(Made(lambda pixels: {"pixels": pixels}["image"]))
    assert isinstance(caught.value.__cause__, BadImage)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


def test_torchvisions_fake_data_and_tensors() -> None:
    assert DatasetSource(FakeData(4, (3, 8, 9))).load(3).shape == (8, 9, 3)
    tensors = TensorDataset(torch.zeros(4, 3, 8, 9), torch.arange(4))
    assert DatasetSource(tensors).load(0).shape == (8, 9, 3)


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: not enough memory", "Cannot re-initialize CUDA in forked"])
def test_what_the_machine_lacks_is_no_fault_of_an_image(message: str) -> None:
    class Hungry(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise RuntimeError(message)
            return np.zeros((4, 4, 3), dtype=np.uint8), 0

    with pytest.raises(RuntimeError, match=message.split(":", maxsplit=1)[0]):
        DatasetSource(Hungry()).load(5)
