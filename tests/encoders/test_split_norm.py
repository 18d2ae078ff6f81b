"""The CPU's form of split batch norm against torch's batch norm of each group, to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from co2ssl.encoders.batch_norm import SplitBatchNorm1d
from co2ssl.encoders.split_norm import split_batch_norm

GROUPS = 4


def by_hand(rows: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: torch.dtype) -> list[Tensor]:
    """Normalised rows, means and variances, with torch's batch norm of one group after the other."""
    mean = torch.zeros(GROUPS, rows.shape[1], dtype=statistics)
    variance = torch.zeros_like(mean)
    parts = [
        F.batch_norm(part, mean[group], variance[group], weight, bias, True, 1.0, 1e-5)
        for group, part in enumerate(rows.chunk(GROUPS))
    ]
    return [torch.cat(parts), mean, variance]


def made(shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool) -> Tensor:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(3).add(5).to(dtype)
    return rows.contiguous(memory_format=torch.channels_last) if channels_last else rows


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "channels_last"), [((8, 6), False), ((8, 6, 5, 5), False), ((8, 6, 5, 5), True), ((12, 3, 7), False)]
)
def test_values_and_gradients_are_those_of_each_group_alone(
    shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype, affine: bool
) -> None:
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    results: list[list[Tensor]] = []
    for ours in (True, False):
        rows = made(shape, dtype, channels_last=channels_last).requires_grad_()
        parameters = [torch.linspace(0.5, 2, shape[1], dtype=statistics).requires_grad_() for _ in range(2)]
        weight, bias = parameters if affine else (None, None)
        if ours:
            like = torch.zeros(shape[1], dtype=statistics)
            values = list(split_batch_norm(rows, weight, bias, groups=GROUPS, eps=1e-5, like=like))
        else:
            values = by_hand(rows, weight, bias, statistics)
        values[0].backward(made(shape, dtype, channels_last=channels_last).sin())
        gradients = [leaf.grad for leaf in (rows, *parameters) if leaf.grad is not None]
        results.append([*values, *gradients])
    assert len(results[0]) == len(results[1]) == (6 if affine else 4)
    for place, (one, other) in enumerate(zip(*results, strict=True)):
        assert one.dtype == other.dtype
        if affine and place >= 4:
            # Torch adds the groups up in another order.
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_gradient_of_gradient_free_rows_goes_to_the_parameters() -> None:
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    rows = made((8, 3, 2, 2), torch.float32, channels_last=True)
    split_batch_norm(rows, weight, bias, groups=GROUPS, eps=1e-5, like=weight)[0].square().sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None
    # The sum of squares of normalised values is their number, less what eps takes away.
    torch.testing.assert_close(weight.grad, torch.full((3,), 2.0 * 8 * 4), rtol=1e-3, atol=0)
    torch.testing.assert_close(bias.grad, torch.zeros(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1), (4, 3, 1, 1)])
def test_one_value_per_channel_and_group_is_refused(shape: tuple[int, ...]) -> None:
    """As ``F.batch_norm`` does, which has no variance to give, and before anything is written down."""
    rows = made(shape, torch.float32, channels_last=False)
    like = torch.zeros(3)
    with pytest.raises(ValueError, match=r"4 batch-norm groups 1 value per channel.*larger batch"):
        split_batch_norm(rows, None, None, groups=4, eps=1e-5, like=like)
    _, _, variance = split_batch_norm(rows, None, None, groups=2, eps=1e-5, like=like)
    assert variance.isfinite().all()


def test_a_refused_batch_leaves_the_running_statistics_as_they_were() -> None:
    norm = SplitBatchNorm1d(3, 4)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    with pytest.raises(ValueError, match="1 value per channel"):
        norm(torch.randn(4, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


def test_rows_keep_their_layout() -> None:
    for channels_last in (True, False):
        rows = made((8, 4, 3, 3), torch.float32, channels_last=channels_last)
        normalised = split_batch_norm(rows, None, None, groups=2, eps=1e-5, like=rows)[0]
        assert normalised.stride() == rows.stride()
