from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from co2ssl.memory.queue import Queue


def _keys(count: int, dim: int = 4, *, seed: int = 1) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


class SlowRing:
    """One key at a time, with Python integers."""

    def __init__(self, queue: Queue) -> None:
        self.rows = [row.clone() for row in queue.keys]
        self.index = queue.index.tolist()
        self.pointer = 0

    def enqueue(self, keys: Tensor, index: Tensor) -> None:
        for key, image in zip(keys, index.tolist(), strict=True):
            self.rows[self.pointer] = key
            self.index[self.pointer] = image
            self.pointer = (self.pointer + 1) % len(self.rows)


def test_starts_with_random_unit_rows_that_only_the_seed_decides() -> None:
    torch.manual_seed(5)
    first = Queue(100, 16, seed=3)
    torch.manual_seed(6)
    assert torch.equal(first.keys, Queue(100, 16, seed=3).keys)
    assert not torch.equal(first.keys, Queue(100, 16, seed=4).keys)
    torch.testing.assert_close(first.keys.norm(dim=1), torch.ones(100))
    # In all directions: a mean cosine near 0 with a spread of 1 / sqrt(16).
    cosines = (first.keys @ first.keys.T)[~torch.eye(100, dtype=torch.bool)]
    assert float(cosines.mean().abs()) < 0.05
    assert float(cosines.std()) == pytest.approx(0.25, abs=0.03)
    assert first.index.tolist() == [-1] * 100
    assert int(first.pointer) == 0


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 12), batches=st.lists(st.integers(0, 30), max_size=6))
def test_equals_a_slow_ring_for_any_batches(size: int, batches: list[int]) -> None:
    queue = Queue(size, 4, seed=0)
    slow = SlowRing(queue)
    seen = 0
    for number, count in enumerate(batches):
        keys, index = _keys(count, seed=number), torch.arange(seen, seen + count)
        queue.enqueue(keys, index)
        slow.enqueue(keys, index)
        seen += count
        assert torch.equal(queue.keys, torch.stack(slow.rows))
        assert queue.index.tolist() == slow.index
        assert int(queue.pointer) == slow.pointer


def test_seven_into_ten_wraps() -> None:
    queue = Queue(10, 4, seed=0)
    queue.enqueue(_keys(7), torch.arange(7))
    queue.enqueue(_keys(7), torch.arange(7, 14))
    assert queue.index.tolist() == [10, 11, 12, 13, 4, 5, 6, 7, 8, 9]
    assert int(queue.pointer) == 4


def test_of_too_many_keys_the_last_stay() -> None:
    queue, keys = Queue(5, 4, seed=0), _keys(13)
    queue.enqueue(keys, torch.arange(13))
    assert sorted(queue.index.tolist()) == [8, 9, 10, 11, 12]
    assert torch.equal(queue.keys, keys[queue.index])


def test_is_written_in_place() -> None:
    queue = Queue(10, 4, seed=0)
    table, addresses = queue.keys, [buffer.data_ptr() for buffer in queue.buffers()]
    keys = _keys(3)
    queue.enqueue(keys, torch.arange(3))
    assert queue.keys is table
    assert [buffer.data_ptr() for buffer in queue.buffers()] == addresses
    assert torch.equal(table[:3], keys)


def test_the_device_is_never_asked_for_a_value_after_the_first_call() -> None:
    # Meta tensors have no values: whatever reads one (item(), a truth value, a shape that depends on data) raises.
    queue = Queue(10, 4, seed=0)
    queue.enqueue(_keys(3), torch.arange(3))
    queue.to("meta").enqueue(_keys(7).to("meta"), torch.arange(7, device="meta"))


def test_state_dict_continues_where_it_was() -> None:
    queue = Queue(10, 4, seed=0)
    queue.enqueue(_keys(7), torch.arange(7))
    state = {name: value.clone() for name, value in queue.state_dict().items()}
    assert set(state) == {"keys", "index", "pointer"}
    other = Queue(10, 4, seed=9)
    other.load_state_dict(state)
    for ring in (queue, other):
        ring.enqueue(_keys(6, seed=2), torch.arange(7, 13))
    for name, value in queue.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keys_of_another_precision_are_cast_to_the_table(dtype: torch.dtype) -> None:
    queue = Queue(10, 32, seed=0)
    keys = _keys(6, 32).to(dtype)
    queue.enqueue(keys, torch.arange(6))
    assert queue.keys.dtype == torch.float32
    assert torch.equal(queue.keys[:6], keys.to(torch.float32))
    double = Queue(10, 32, seed=0).double()
    double.enqueue(keys, torch.arange(6))
    assert torch.equal(double.keys[:6], keys.double())
    assert double.index.dtype == torch.int64


def test_keys_carry_no_gradient_into_the_table() -> None:
    queue = Queue(10, 4, seed=0)
    queue.enqueue(_keys(3).requires_grad_(), torch.arange(3))
    assert not queue.keys.requires_grad


@pytest.mark.parametrize("factor", [0.0, 1.02, float("nan")])
def test_rows_that_are_not_unit_vectors_are_refused_at_first(factor: float) -> None:
    queue, keys = Queue(10, 4, seed=0), _keys(3)
    before = queue.keys.clone()
    keys[1] *= factor
    with pytest.raises(ValueError, match="unit length, but row 1 of 3"):
        queue.enqueue(keys, torch.arange(3))
    assert torch.equal(queue.keys, before)


def test_wrong_shapes_are_named() -> None:
    queue = Queue(10, 4, seed=0)
    with pytest.raises(ValueError, match=r"\(N, 4\), got \(3, 5\)"):
        queue.enqueue(_keys(3, 5), torch.arange(3))
    with pytest.raises(ValueError, match=r"int64 \(3,\), got torch.int64 \(4,\)"):
        queue.enqueue(_keys(3), torch.arange(4))
    with pytest.raises(ValueError, match="at least one key"):
        Queue(0, 4, seed=0)
