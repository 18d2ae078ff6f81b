from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from co2ssl.data.batch import normalise
from co2ssl.evaluate.features import (
    EncoderChangedError,
    EvaluationError,
    Features,
    extract,
    matched_labels,
    raw_pixels,
    unchanged,
)
from tests.evaluate.fakes import Images, Net


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


def test_no_images_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no images"):
        extract(Net(), Images([], ("a", "b")), image_size=8)


def test_raw_pixels_are_the_normalised_image_flattened() -> None:
    source = Images([0, 1], ("a", "b"), size=6)
    found = raw_pixels(source, image_size=6)
    image = torch.from_numpy(source.load(1)).permute(2, 0, 1).unsqueeze(0)
    assert found.features.shape == (2, 3 * 6 * 6)
    torch.testing.assert_close(found.features[1], normalise(image).flatten())


def test_unchanged_lets_reading_pass_and_nan_equals_itself() -> None:
    net = Net()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    with unchanged(net):
        net.eval()
        net(torch.zeros(1, 3, 8, 8))


def flip_one_bit(net: nn.Module, name: str) -> None:
    tensor = dict([*net.named_parameters(), *net.named_buffers()])[name]
    tensor.detach().reshape(-1).view(torch.uint8)[0] ^= 1


@pytest.mark.parametrize("name", ["head.weight", "backbone.1.running_mean", "backbone.1.num_batches_tracked"])
def test_unchanged_sees_one_bit(name: str) -> None:
    net = Net()
    guard = unchanged(net)
    guard.__enter__()
    flip_one_bit(net, name)
    with pytest.raises(EncoderChangedError, match=name):
        guard.__exit__(None, None, None)


def test_unchanged_sees_the_sign_of_zero_and_a_new_buffer() -> None:
    net = Net()
    net.head.bias.data[0] = 0.0
    guard = unchanged(net)
    guard.__enter__()
    net.register_buffer("extra", torch.zeros(1))
    net.head.bias.data[0] = -0.0
    with pytest.raises(EncoderChangedError, match=r"extra, head\.bias"):
        guard.__exit__(None, None, None)


def change_and_fail(net: Net) -> None:
    with unchanged(net):
        net.head.bias.data.fill_(1)
        raise ZeroDivisionError


def test_an_error_inside_unchanged_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        change_and_fail(Net())


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
