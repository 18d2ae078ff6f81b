from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co2ssl import distributed
from co2ssl.encoders.batch_norm import BatchNormKind, convert_batch_norm
from co2ssl.encoders.permuted import permuted_forward
from tests.processes import ProcessPair

PERMUTATION = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])


def _images(*, channels_last: bool = False) -> Tensor:
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images.to(memory_format=torch.channels_last) if channels_last else images


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4),
    )
    return encoder.double()


class RowByRow(nn.Module):
    """No batch norm: each row's embedding depends on that row alone."""

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1), dim=1)


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images.clone()
        assert images.is_contiguous(memory_format=torch.channels_last) or images.is_contiguous()
        return images.flatten(1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_embeddings_come_back_in_the_original_order(channels_last: bool) -> None:
    images, recorder = _images(channels_last=channels_last), Recorder()
    assert torch.equal(permuted_forward(recorder, images, PERMUTATION), images.flatten(1))
    assert torch.equal(recorder.seen, images[PERMUTATION])
    assert recorder.seen.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert torch.equal(permuted_forward(RowByRow(), images, PERMUTATION), RowByRow()(images))


def test_split_groups_are_those_of_the_permuted_batch() -> None:
    encoder = convert_batch_norm(_encoder(), "split", groups=2)
    keys = permuted_forward(encoder, _images(), PERMUTATION)
    expected = torch.empty_like(keys)
    for half in (PERMUTATION[:4], PERMUTATION[4:]):
        expected[half] = _encoder()(_images()[half]).detach()  # plain batch norm of these four alone
    torch.testing.assert_close(keys, expected, rtol=1e-12, atol=1e-12)
    unpermuted = permuted_forward(encoder, _images(), None)
    assert float((keys - unpermuted).abs().max()) > 1e-3  # and not those of the unpermuted one


def test_plain_batch_norm_is_not_moved_by_permuting() -> None:
    # Why a shuffle on one process is no cure for the leak.
    torch.testing.assert_close(
        permuted_forward(_encoder(), _images(), PERMUTATION), _encoder()(_images()).detach(), rtol=1e-10, atol=1e-10
    )


def test_no_permutation_is_a_plain_forward_without_gradient() -> None:
    encoder = _encoder()
    keys = permuted_forward(encoder, _images(), None)
    assert not keys.requires_grad
    assert torch.equal(keys, _encoder()(_images()))
    assert not permuted_forward(encoder, _images(), PERMUTATION).requires_grad


@pytest.mark.parametrize("permutation", [PERMUTATION[:7], PERMUTATION.to(torch.int32), PERMUTATION.view(2, 4)])
def test_a_permutation_of_something_else_is_refused(permutation: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be int64 \(8,\)"):
        permuted_forward(RowByRow(), _images(), permutation)


# Two processes


def _own_keys(kind: BatchNormKind, groups: int, channels_last: bool) -> Tensor:
    images = _images(channels_last=channels_last)[distributed.rank_slice(8)]
    encoder = convert_batch_norm(_encoder(), kind, groups=groups)
    return permuted_forward(encoder, images, PERMUTATION)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kind", "groups"), [("shuffle", 1), ("split", 2)])
def test_shuffle_on_two_processes_is_split_in_two_groups_on_one(
    two_processes: ProcessPair, kind: BatchNormKind, groups: int, channels_last: bool
) -> None:
    keys = torch.cat(two_processes(_own_keys, kind, groups, channels_last))
    expected = permuted_forward(convert_batch_norm(_encoder(), "split", groups=2), _images(), PERMUTATION)
    torch.testing.assert_close(keys, expected, rtol=1e-12, atol=1e-12)


def test_four_groups_on_two_processes_are_four_groups_on_one(two_processes: ProcessPair) -> None:
    keys = torch.cat(two_processes(_own_keys, "split", 4, False))
    expected = permuted_forward(convert_batch_norm(_encoder(), "split", groups=4), _images(), PERMUTATION)
    torch.testing.assert_close(keys, expected, rtol=1e-12, atol=1e-12)


def _own_order() -> tuple[Tensor, Tensor]:
    images = _images()[distributed.rank_slice(8)]
    recorder = Recorder()
    return permuted_forward(recorder, images, PERMUTATION), recorder.seen


def test_two_processes_get_their_own_rows_back(two_processes: ProcessPair) -> None:
    results = two_processes(_own_order)
    assert torch.equal(torch.cat([embeddings for embeddings, _ in results]), _images().flatten(1))
    assert torch.equal(torch.cat([seen for _, seen in results]), _images()[PERMUTATION])
