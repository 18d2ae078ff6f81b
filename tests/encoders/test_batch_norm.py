from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from co2ssl import distributed
from co2ssl.encoders.batch_norm import (
    BatchNormKind,
    SplitBatchNorm1d,
    SplitBatchNorm2d,
    SyncBatchNorm2d,
    average_running_statistics,
    averaged_statistics,
    convert_batch_norm,
    depends_on_processes,
    running_statistics,
    set_running_statistics,
)
from tests.processes import ProcessPair

DOUBLE = torch.float64


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def _scrambled(norm: nn.Module) -> Any:
    """Weights, biases and running statistics that are not 1 and 0."""
    for number, tensor in enumerate(norm.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(_random(*tensor.shape, seed=number).abs() + 0.1)
    return norm.double()


def _explicit(rows: Tensor, norm: Any) -> Tensor:
    """Batch norm of (N, C, ...) by its definition, channel by channel."""
    channels = []
    for channel in range(rows.shape[1]):
        values = rows[:, channel]
        scaled = (values - values.mean()) / (((values - values.mean()) ** 2).mean() + norm.eps) ** 0.5
        channels.append(scaled * norm.weight[channel] + norm.bias[channel])
    return torch.stack(channels, dim=1)


def _close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


CASES = [(SplitBatchNorm2d, (8, 3, 4, 5)), (SplitBatchNorm1d, (8, 3)), (SplitBatchNorm1d, (8, 3, 6))]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("cls", "shape"), CASES)
def test_split_normalises_consecutive_rows_on_their_own(cls: Any, shape: tuple[int, ...], groups: int) -> None:
    norm = _scrambled(cls(3, groups))
    rows = _random(*shape)
    size = 8 // groups
    expected = torch.cat([_explicit(rows[start : start + size], norm) for start in range(0, 8, size)])
    _close(norm(rows), expected)


def test_split_tracks_the_mean_of_what_each_group_would_have_tracked() -> None:
    norm = _scrambled(SplitBatchNorm2d(3, 4, momentum=0.3))
    devices = [_scrambled(nn.BatchNorm2d(3, momentum=0.3)) for _ in range(4)]
    for step in range(3):
        rows = _random(8, 3, 4, 5, seed=step)
        norm(rows)
        for device, part in zip(devices, rows.chunk(4), strict=True):
            device(part)
    _close(norm.running_mean, torch.stack([device.running_mean for device in devices]).mean(dim=0))
    _close(norm.running_var, torch.stack([device.running_var for device in devices]).mean(dim=0))
    assert int(norm.num_batches_tracked) == 3


def test_split_gradient() -> None:
    norm = SplitBatchNorm2d(2, 2).double()
    weight, bias = _random(2, seed=1).requires_grad_(), _random(2, seed=2).requires_grad_()

    def normalised(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (rows,))
        return result

    rows = _random(4, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(normalised, (rows, weight, bias))


@pytest.mark.parametrize("kind", ["split", "sync", "plain"])
def test_every_kind_evaluates_as_plain_batch_norm(kind: BatchNormKind) -> None:
    plain = _scrambled(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(60))).eval()
    converted = convert_batch_norm(copy.deepcopy(plain), kind, groups=4 if kind == "split" else 1)
    rows = _random(7, 3, 4, 5)  # 7 rows: groups play no part
    assert torch.equal(converted(rows), plain(rows))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in converted.state_dict().items())


def test_sync_in_one_process_is_plain() -> None:
    plain = _scrambled(nn.BatchNorm2d(3))
    converted = convert_batch_norm(copy.deepcopy(plain), "sync")
    rows = _random(6, 3, 4, 5)
    assert torch.equal(converted(rows), plain(rows))
    assert torch.equal(converted.get_buffer("running_var"), plain.running_var)


def test_split_keeps_layout_and_precision_under_autocast() -> None:
    rows = torch.randn(8, 16, 4, 4).to(memory_format=torch.channels_last).bfloat16()
    norm = SplitBatchNorm2d(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        normalised = norm(rows)
    assert normalised.dtype == torch.bfloat16
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    expected = SplitBatchNorm2d(16, 4)(rows.float())
    torch.testing.assert_close(normalised.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "groups", "message"),
    [
        ("shuffle", 1, "Use 'split'"),
        ("split", 1, "at least 2 groups"),
        ("sync", 4, "says nothing to 'sync'"),
        ("splitt", 4, "plain, split, sync, shuffle"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(kind: Any, groups: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_batch_norm(nn.BatchNorm2d(3), kind, groups=groups)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm3d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, momentum=None)]
)
def test_batch_norms_that_cannot_be_kept_are_refused(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match="cannot convert"):
        convert_batch_norm(nn.Sequential(norm), "split", groups=2)


def test_rows_that_do_not_divide_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"9 rows do not divide into 4 .* multiple of 4"):
        SplitBatchNorm2d(3, 4)(_random(9, 3, 2, 2))
    with pytest.raises(ValueError, match="at least one group"):
        SplitBatchNorm2d(3, 0)
    with pytest.raises(ValueError, match="4D input"):
        SplitBatchNorm2d(3, 2)(_random(8, 3))


def test_running_statistics_come_back_to_the_bit() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(2, 2), nn.BatchNorm1d(4).bfloat16(), SplitBatchNorm2d(2, 2))
    network[3].double()
    buffers = {name: value for name, value in network.named_buffers() if value.is_floating_point()}
    for number, value in enumerate(buffers.values()):
        value.copy_(_random(*value.shape, seed=number))
    expected = {name: value.clone() for name, value in buffers.items()}
    kept = running_statistics(network)
    assert (kept.shape, kept.dtype) == ((18,), torch.float64)
    for value in buffers.values():
        value.zero_()
    set_running_statistics(network, kept)
    assert all(torch.equal(value, expected[name]) for name, value in buffers.items())
    with pytest.raises(ValueError, match=r"shape \(17,\) where the network has \(18,\)"):
        set_running_statistics(network, kept[1:])
    assert running_statistics(nn.Linear(2, 2)).shape == (0,)


@pytest.mark.parametrize(("kind", "expected"), [("plain", True), ("split", False), ("sync", False)])
def test_what_depends_on_the_number_of_processes(kind: BatchNormKind, expected: bool) -> None:
    network = convert_batch_norm(_network(), kind, groups=2 if kind == "split" else 1)
    assert depends_on_processes(network) == expected
    assert not depends_on_processes(nn.Sequential(nn.Linear(2, 2)))


# Two processes


def _averaged_for_a_while(norm: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """The running variance before, within and after the block."""
    variance = norm.get_buffer("running_var")
    variance.mul_(1.0 + distributed.rank() / 3)
    before = variance.clone()
    with suppress(ZeroDivisionError), averaged_statistics(norm):
        within = variance.clone()
        raise ZeroDivisionError
    return before, within, variance.clone()


def test_statistics_are_averaged_for_a_while(two_processes: ProcessPair) -> None:
    first, second = two_processes(_averaged_for_a_while, _scrambled(nn.BatchNorm2d(3)))
    assert not torch.equal(first[0], second[0])
    for before, within, after in (first, second):
        _close(within, (first[0] + second[0]) / 2)
        assert torch.equal(before, after)


def _train(module: nn.Module, rows: Tensor, coupling: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and statistics after one backward pass of a loss that differs for every entry."""
    rows = rows.clone().requires_grad_()
    outputs = module(rows)
    loss = (outputs.square() * coupling).sum()
    names = [name for name, _ in module.named_parameters()]
    gradients = torch.autograd.grad(loss, [rows, *module.parameters()])
    result = {"outputs": outputs.detach(), "rows": gradients[0], **dict(module.named_buffers())}
    return {**result, **dict(zip(names, gradients[1:], strict=True))}


def _train_own_share(
    module: nn.Module, kind: BatchNormKind, groups: int, rows: Tensor, coupling: Tensor, counts: list[int]
) -> dict[str, Tensor]:
    rank = distributed.rank()
    module = convert_batch_norm(module, kind, groups=groups)
    result = _train(module, torch.split(rows, counts)[rank], torch.split(coupling, counts)[rank])
    average_running_statistics(module)
    return {**result, **dict(module.named_buffers())}


def _compare_with_one_process(results: list[dict[str, Tensor]], expected: dict[str, Tensor], module: nn.Module) -> None:
    parameters = {name for name, _ in module.named_parameters()}
    for name, value in expected.items():
        if name in ("outputs", "rows"):
            _close(torch.cat([result[name] for result in results]), value)
        elif name in parameters:
            _close(results[0][name] + results[1][name], value)  # DDP's part
        else:
            for result in results:
                _close(result[name], value)


@pytest.mark.parametrize("counts", [[4, 4], [5, 3]])
@pytest.mark.parametrize("shape", [(8, 3, 4, 5), (8, 3)])
def test_sync_equals_batch_norm_of_the_joined_batch(
    two_processes: ProcessPair, shape: tuple[int, ...], counts: list[int]
) -> None:
    norm = _scrambled(nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3))
    rows, coupling = _random(*shape), _random(*shape, seed=1)
    results = two_processes(_train_own_share, norm, "sync", 1, rows, coupling, counts)
    _compare_with_one_process(results, _train(norm, rows, coupling), norm)


def test_sync_without_affine_and_far_from_zero(two_processes: ProcessPair) -> None:
    norm = nn.BatchNorm2d(3, affine=False).double()
    rows, coupling = 1e5 + _random(8, 3, 4, 5), _random(8, 3, 4, 5, seed=1)
    results = two_processes(_train_own_share, norm, "sync", 1, rows, coupling, [4, 4])
    expected = _train(norm, rows, coupling)
    # Sums of squares would lose 10 of 16 digits here.
    _close(torch.cat([result["outputs"] for result in results]), expected["outputs"], tolerance=1e-9)


def _sync_in_bfloat16(rows: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
    share = distributed.rank_slice(8)
    own = rows[share].clone().requires_grad_()
    outputs = SyncBatchNorm2d(3)(own)
    return outputs.detach(), torch.autograd.grad((outputs.float() * coupling[share]).sum(), own)[0]


def test_sync_takes_bfloat16_rows(two_processes: ProcessPair) -> None:
    rows, coupling = _random(8, 3, 4, 4).bfloat16(), _random(8, 3, 4, 4, seed=1).float()
    results = two_processes(_sync_in_bfloat16, rows, coupling)
    outputs, gradients = (torch.cat(parts) for parts in zip(*results, strict=True))
    assert (outputs.dtype, gradients.dtype) == (torch.bfloat16, torch.bfloat16)
    wide = rows.float().requires_grad_()
    expected = nn.BatchNorm2d(3)(wide)
    torch.testing.assert_close(outputs.float(), expected, rtol=1e-2, atol=1e-2)
    (gradient,) = torch.autograd.grad((expected * coupling).sum(), wide)
    torch.testing.assert_close(gradients.float(), gradient, rtol=2e-2, atol=2e-2)


def _network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6)
    )
    return network.double()


@pytest.mark.parametrize(("kind", "groups"), [("sync", 1), ("split", 4), ("split", 2)])
def test_a_network_on_two_processes_is_the_network_on_one(
    two_processes: ProcessPair, kind: BatchNormKind, groups: int
) -> None:
    rows, coupling = _random(8, 3, 5, 5), _random(8, 6, seed=1)
    results = two_processes(_train_own_share, _network(), kind, groups, rows, coupling, [4, 4])
    network = convert_batch_norm(_network(), "plain" if kind == "sync" else kind, groups=groups)
    _compare_with_one_process(results, _train(network, rows, coupling), network)


def _convert_with_odd_groups() -> str:
    with pytest.raises(ValueError, match="do not divide") as caught:
        convert_batch_norm(nn.BatchNorm2d(3), "split", groups=3)
    return str(caught.value)


def test_groups_that_do_not_divide_among_processes_are_refused(two_processes: ProcessPair) -> None:
    assert "multiple of 2" in two_processes(_convert_with_odd_groups)[1]
