from __future__ import annotations

import numpy as np
import pytest

from co2ssl.data.hashing import ORDER_STREAM, SPLIT_STREAM, permutation, step_permutation, uniform


def splitmix64(state: int, count: int) -> list[int]:
    """The published algorithm, one number at a time."""
    mask = (1 << 64) - 1
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        value = state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(value ^ (value >> 31))
    return numbers


def test_a_row_is_a_splitmix64_sequence() -> None:
    row = uniform(3, epoch=5, index=np.array([17]), view=1, draws=6)[0]
    start = 0
    for counter in (3, 0, 5, 1):
        start = splitmix64(start ^ counter, 1)[0]
    # The image index is mixed in once more without the increment.
    value = (17 ^ start) & ((1 << 64) - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    value ^= value >> 31
    np.testing.assert_array_equal(row, [(number >> 11) / 2**53 for number in splitmix64(value, 6)])


def test_values_are_fixed_for_ever() -> None:
    # A change here changes every run that is resumed: these numbers may never be edited.
    first = uniform(0, epoch=0, index=np.array([0, 1]), view=0, draws=2)
    np.testing.assert_allclose(first, FIXED_UNIFORM, rtol=0, atol=1e-15)
    assert permutation(0, epoch=0, length=8).tolist() == FIXED_ORDER


def test_a_row_depends_on_its_own_index_only() -> None:
    index = np.array([9, 2, 500_000, 2])
    rows = uniform(1, epoch=2, index=index, view=0, draws=7)
    for place, number in enumerate(index):
        alone = uniform(1, epoch=2, index=np.array([number]), view=0, draws=7)
        np.testing.assert_array_equal(rows[place], alone[0])
    fewer = uniform(1, epoch=2, index=index, view=0, draws=3)
    np.testing.assert_array_equal(rows[:, :3], fewer)


def test_every_counter_matters_and_none_can_stand_for_another() -> None:
    index = np.arange(4)
    seen = set()
    for seed in (0, 1, 2):
        for stream in (0, 1, 2):
            for epoch in (0, 1, 2):
                for view in (0, 1, 2):
                    rows = uniform(seed, epoch=epoch, index=index, view=view, draws=2, stream=stream)
                    seen.update(rows.ravel().tolist())
    assert len(seen) == 3**4 * 4 * 2


def test_negative_and_huge_seeds_are_seeds() -> None:
    index = np.arange(2)
    values = {float(uniform(seed, epoch=0, index=index, view=0, draws=1)[0, 0]) for seed in (-1, 1, 2**63, 2**80 + 5)}
    assert len(values) == 4


def test_numbers_are_uniform_and_uncorrelated() -> None:
    draws, count = 8, 20_000
    first = uniform(11, epoch=0, index=np.arange(count), view=0, draws=draws)
    second = uniform(11, epoch=0, index=np.arange(count), view=1, draws=draws)
    later = uniform(11, epoch=1, index=np.arange(count), view=0, draws=draws)
    assert first.min() >= 0
    assert first.max() < 1
    expected = count / 50
    for column in range(draws):
        counts = np.histogram(first[:, column], bins=50, range=(0, 1))[0]
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert 15 < chi_squared < 100  # 49 degrees of freedom: mean 49, standard deviation 9.9
    together = np.concatenate([first, second, later, np.roll(first, 1, axis=0)], axis=1)
    correlation = np.corrcoef(together, rowvar=False) - np.eye(4 * draws)
    assert np.abs(correlation).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_permutation_is_one(length: int) -> None:
    order = permutation(5, epoch=3, length=length)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(length))


def test_permutations_differ_by_seed_epoch_step_and_stream() -> None:
    orders = [
        permutation(0, epoch=0, length=50),
        permutation(1, epoch=0, length=50),
        permutation(0, epoch=1, length=50),
        permutation(0, epoch=0, length=50, stream=SPLIT_STREAM),
        step_permutation(0, step=0, length=50),
        step_permutation(0, step=1, length=50),
    ]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    np.testing.assert_array_equal(orders[0], permutation(0, epoch=0, length=50, stream=ORDER_STREAM))


def test_every_order_of_three_is_equally_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    trials = 3000
    for epoch in range(trials):
        order = tuple(permutation(7, epoch=epoch, length=3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    # Binomial: mean 500, standard deviation 20.4.
    assert all(abs(count - trials / 6) < 5 * 20.4 for count in counts.values())


FIXED_UNIFORM = [[0.8882191629980378, 0.6242750872692653], [0.5383500963593802, 0.737094280527388]]
FIXED_ORDER = [5, 6, 4, 0, 3, 7, 1, 2]
