from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from co2ssl import distributed
from tests.processes import ProcessPair


def _rows(rank: int, count: int) -> Tensor:
    return torch.arange(count * 3, dtype=torch.float64).view(count, 3) + 100 * rank


def test_one_process_is_a_world_of_one() -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert torch.equal(distributed.gather(rows), rows)
    assert not distributed.gather(rows).requires_grad
    assert distributed.gather_with_gradient(rows) is rows
    total = distributed.all_reduce_sum(rows)
    assert torch.equal(total, rows)
    assert total.data_ptr() != rows.data_ptr()
    assert not total.requires_grad
    distributed.barrier()
    assert distributed.rank_slice(7) == slice(0, 7)


def test_process_group_does_nothing_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group():
        assert not distributed.is_initialised()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed.process_group():
        assert distributed.world_size() == 1


def _identity_of_process() -> tuple[int, int, bool, slice]:
    return distributed.rank(), distributed.world_size(), distributed.is_main(), distributed.rank_slice(6)


def test_two_processes_know_their_places(two_processes: ProcessPair) -> None:
    assert two_processes(_identity_of_process) == [(0, 2, True, slice(0, 3)), (1, 2, False, slice(3, 6))]


def _uneven_slice() -> str:
    with pytest.raises(ValueError, match="does not divide") as caught:
        distributed.rank_slice(7)
    return str(caught.value)


def test_rows_that_do_not_divide_are_refused_with_advice(two_processes: ProcessPair) -> None:
    assert "7 rows" in two_processes(_uneven_slice)[0]
    assert "multiple of 2" in two_processes(_uneven_slice)[1]


def _gather(counts: tuple[int, int], dtype: torch.dtype) -> Tensor:
    rank = distributed.rank()
    return distributed.gather(_rows(rank, counts[rank]).to(dtype))


@pytest.mark.parametrize("counts", [(2, 2), (3, 1), (0, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_gather_joins_rows_in_rank_order(
    two_processes: ProcessPair, counts: tuple[int, int], dtype: torch.dtype
) -> None:
    expected = torch.cat([_rows(rank, counts[rank]).to(dtype) for rank in range(2)])
    for gathered in two_processes(_gather, counts, dtype):
        assert gathered.dtype == dtype
        assert torch.equal(gathered, expected)


def _gather_vector() -> Tensor:
    return distributed.gather(torch.tensor([7 + distributed.rank()]))


def test_gather_takes_vectors(two_processes: ProcessPair) -> None:
    assert all(gathered.tolist() == [7, 8] for gathered in two_processes(_gather_vector))


def _all_reduce() -> tuple[Tensor, Tensor]:
    own = _rows(distributed.rank(), 2).T  # not contiguous
    return distributed.all_reduce_sum(own), own


def test_all_reduce_sums_and_leaves_its_argument(two_processes: ProcessPair) -> None:
    expected = (_rows(0, 2) + _rows(1, 2)).T
    for rank, (total, own) in enumerate(two_processes(_all_reduce)):
        assert torch.equal(total, expected)
        assert torch.equal(own, _rows(rank, 2).T)


def _pair_loss(own: Tensor, everyone: Tensor, weight: float) -> Tensor:
    """A loss whose every term couples rows of both processes."""
    return weight * torch.logsumexp(own @ everyone.T, dim=1).square().sum()


def _gradient_through_gather(joined: Tensor, counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rank = distributed.rank()
    own = torch.split(joined, list(counts))[rank].clone().requires_grad_()
    loss = _pair_loss(own, distributed.gather_with_gradient(own), weight=1.0 + rank)
    return loss.detach(), torch.autograd.grad(loss, own)[0]


@pytest.mark.parametrize("counts", [(3, 3), (4, 2)])
def test_gradient_through_gather_is_that_of_the_joined_batch(
    two_processes: ProcessPair, counts: tuple[int, int]
) -> None:
    joined = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = two_processes(_gradient_through_gather, joined, counts)
    reference = joined.clone().requires_grad_()
    first, second = torch.split(reference, list(counts))
    loss = _pair_loss(first, reference, 1.0) + _pair_loss(second, reference, 2.0)
    (gradient,) = torch.autograd.grad(loss, reference)
    torch.testing.assert_close(sum(result[0] for result in results), loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([result[1] for result in results]), gradient, rtol=1e-12, atol=1e-12)


_SCRIPT = """
import torch
from co2ssl import distributed
with distributed.process_group("gloo"):
    print("world", distributed.world_size(), distributed.gather(torch.tensor([distributed.rank()])).tolist())
    with distributed.process_group():
        assert distributed.world_size() == 2
    assert distributed.is_initialised()
print("after", distributed.world_size())
"""


def test_process_group_reads_what_torchrun_sets() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared: dict[str, Any] = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", _SCRIPT]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert outputs == ["world 2 [0, 1]\nafter 1\n"] * 2
