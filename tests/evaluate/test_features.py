from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from co2ssl.data.batch import normalise
from co2ssl.distributed import rank
from co2ssl.evaluate.features import (
    EvaluationError,
    Features,
    extract,
    feature_batches,
    labels_of,
    matched_labels,
    raw_pixels,
    shared_feature_batches,
)
from co2ssl.evaluate.frozen import EncoderChangedError
from tests.evaluate.fakes import Images, Net
from tests.processes import ProcessPair


def features(labels: list[int] | None, classes: tuple[str, ...] | None, source: str = "somewhere") -> Features:
    num = 3 if labels is None else len(labels)
    return Features(
        features=torch.randn(num, 4),
        labels=None if labels is None else torch.tensor(labels, dtype=torch.int64),
        index=torch.arange(num),
        classes=classes,
        source=source,
    )


def test_extract_equals_the_network_called_image_by_image() -> None:
    source = Images([0, 1, 2, 0, 1], ("a", "b", "c"))
    net = Net().backbone
    found = extract(net, source, image_size=8, batch_size=2)
    net.eval()
    for place in range(5):
        image = torch.from_numpy(source.load(place)).permute(2, 0, 1).unsqueeze(0)
        expected = net(normalise(image)).detach()[0]
        torch.testing.assert_close(found.features[place], expected, rtol=1e-5, atol=1e-6)
    assert found.features.dtype == torch.float32
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert found.classes == ("a", "b", "c")
    assert not found.features.requires_grad


def test_extract_restores_the_mode_of_every_part() -> None:
    net = Net()
    net.train()
    net.backbone[1].eval()
    before = [part.training for part in net.modules()]
    extract(net, Images([0, 1], ("a", "b")), image_size=8)
    assert [part.training for part in net.modules()] == before
    assert net.training


def test_extract_restores_the_mode_when_it_fails() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    with pytest.raises(EvaluationError, match="pool them"):
        extract(net, Images([0, 1], ("a", "b")), image_size=8)
    assert net[1].training


def test_extract_without_labels() -> None:
    found = extract(Net(), Images(None, None, num_images=4), image_size=8)
    assert found.labels is None
    assert found.features.shape == (4, 4)


def test_extract_in_bf16_gives_float32_features_near_the_exact_ones() -> None:
    source, net = Images([0, 1, 0], ("a", "b")), Net()
    exact = extract(net, source, image_size=8).features
    coarse = extract(net, source, image_size=8, precision="bf16").features
    assert coarse.dtype == torch.float32
    assert not torch.equal(coarse, exact)
    torch.testing.assert_close(coarse, exact, rtol=0.1, atol=0.05)


class Counting(nn.Module):
    """A network that keeps statistics in evaluation mode too."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.mean(dim=(2, 3))


def test_a_network_that_changes_while_it_is_measured_is_an_error() -> None:
    with pytest.raises(EncoderChangedError, match="seen"):
        extract(Counting(), Images([0, 1], ("a", "b")), image_size=8)


def test_features_that_are_not_finite_are_an_error() -> None:
    net = Net()
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        extract(net, Images([0, 1], ("a", "b")), image_size=8)


def test_images_that_cannot_be_read_are_left_out_and_the_rest_keep_their_places() -> None:
    source, net = Images([0, 1, 2] * 30, ("a", "b", "c"), unreadable=(0, 41)), Net().backbone
    whole = extract(net, Images([0, 1, 2] * 30, ("a", "b", "c")), image_size=8)
    found = extract(net, source, image_size=8, batch_size=7)
    kept = [place for place in range(90) if place not in (0, 41)]
    assert found.index.tolist() == kept
    torch.testing.assert_close(found.features, whole.features[kept])
    assert found.labels is not None
    assert found.labels.tolist() == [place % 3 for place in kept]


def shared(batch_size: int, unreadable: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    source = Images([0, 1, 2] * 31, ("a", "b", "c"), unreadable=unreadable)
    return list(shared_feature_batches(Net().backbone, source, image_size=8, batch_size=batch_size))


@pytest.mark.parametrize(("batch_size", "unreadable"), [(7, ()), (23, (46, 92)), (100, (3,))])
def test_two_processes_make_the_features_of_one(
    two_processes: ProcessPair, batch_size: int, unreadable: tuple[int, ...]
) -> None:
    first, second = two_processes(shared, batch_size, unreadable)
    rows, index = (torch.cat(parts) for parts in zip(*first, strict=True))
    assert sorted(index.tolist()) == [place for place in range(93) if place not in unreadable]
    alone = extract(Net().backbone, Images([0, 1, 2] * 31, ("a", "b", "c")), image_size=8)
    torch.testing.assert_close(rows, alone.features[index], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(own[0], other[0]) for own, other in zip(first, second, strict=True))


def changed_in_the_second_process() -> str:
    net = Counting() if rank() == 1 else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    try:
        list(shared_feature_batches(net, Images([0, 1] * 6, ("a", "b")), image_size=8, batch_size=6))
    except EncoderChangedError as error:
        return str(error)
    return ""


def test_a_network_that_changes_in_one_process_is_noticed_there(two_processes: ProcessPair) -> None:
    found = two_processes(changed_in_the_second_process)
    assert not found[0]
    assert "seen" in found[1]


def test_batches_are_of_the_size_that_is_asked_for() -> None:
    batches = feature_batches(Net().backbone, Images([0, 1] * 5, ("a", "b")), image_size=8, batch_size=4)
    assert [len(rows) for rows, _ in batches] == [4, 4, 2]


def test_no_images_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no images"):
        extract(Net(), Images([], ("a", "b")), image_size=8)


def test_raw_pixels_are_the_normalised_image_flattened() -> None:
    source = Images([0, 1], ("a", "b"), size=6)
    found = raw_pixels(source, image_size=6)
    image = torch.from_numpy(source.load(1)).permute(2, 0, 1).unsqueeze(0)
    assert found.features.shape == (2, 3 * 6 * 6)
    torch.testing.assert_close(found.features[1], normalise(image).flatten())


def test_classes_are_matched_by_name_not_by_number() -> None:
    train = features([0, 1, 2], ("ant", "bee", "cat"))
    val = features([0, 1, 1], ("bee", "cat"))
    own, other, classes = matched_labels(train, val)
    assert own.tolist() == [0, 1, 2]
    assert other.tolist() == [1, 2, 2]
    assert classes == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (features(None, None, "photos"), features([0, 1], ("a", "b")), "photos has no labels"),
        (features([0, 1], ("a", "b")), features(None, None, "photos"), "photos has no labels"),
        (features([0, 0], ("a",)), features([0, 0], ("a",)), r"one class \('a'\)"),
        (features([0, 0], ("a", "b")), features([0], ("a",)), "no image of 'b'"),
        (features([0, 1], ("a", "b")), features([0], ("c",)), "lacks: 'c'"),
        (features([0, 1], ("a", "b")), features([], ("a", "b"), "val"), "val has no images"),
    ],
)
def test_labels_that_cannot_be_used(train: Features, val: Features, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        matched_labels(train, val)


def test_labels_can_be_checked_before_features_are_made() -> None:
    train, val = labels_of(Images([0, 1], ("a", "b"))), labels_of(Images([1, 0], ("a", "c"), name="val"))
    assert matched_labels(train, train)[1].tolist() == [0, 1]
    with pytest.raises(EvaluationError, match="val has classes that images lacks: 'c'"):
        matched_labels(train, val)
    with pytest.raises(EvaluationError, match="no labels"):
        matched_labels(train, labels_of(Images(None, None, num_images=3)))
