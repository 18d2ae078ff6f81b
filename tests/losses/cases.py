"""Small comparisons that between them use every field of ``Contrast``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses import Clipped, Contrast, Dot, Noise, operator, rows, sweep

WIDTH = 5


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random unit vectors along the last dimension."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def table() -> Contrast:
    """A queue."""
    return Contrast(query=unit(6, WIDTH, seed=1), positive=unit(6, WIDTH, seed=2), negatives=unit(11, WIDTH, seed=3))


def table_with_ids() -> Contrast:
    """A queue some of whose keys are of the row's own image."""
    row_id = torch.arange(6)
    negative_id = torch.tensor([0, 0, 1, 7, 8, 9, 2, 5, 5, 5, -1])
    return replace(table(), row_id=row_id, negative_id=negative_id)


def many_positives() -> Contrast:
    """AMDIM's M comparisons against the same negatives."""
    return replace(table_with_ids(), positive=unit(6, 3, WIDTH, seed=4))


def masked() -> Contrast:
    """``valid`` beside ids."""
    valid = torch.rand(6, 11, generator=torch.Generator().manual_seed(5)) < 0.6
    valid[:, 4] = True
    return replace(table_with_ids(), valid=valid)


def joined() -> Contrast:
    """Local Aggregation: some entries join the numerator."""
    also = torch.rand(6, 11, generator=torch.Generator().manual_seed(6)) < 0.3
    also[:, 3:5] = False
    also[0] = False
    return replace(masked(), also_positive=also)


def draws() -> Contrast:
    """InsDisc: each row draws its negatives from a bank, with replacement."""
    index = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(7))
    return replace(table(), negative_index=index)


def draws_with_everything() -> Contrast:
    """Draws with ids, a mask and entries that join the numerator; two positives."""
    base = replace(draws(), positive=unit(6, 2, WIDTH, seed=8))
    valid = torch.ones(6, 7, dtype=torch.bool)
    valid[:, 0] = False
    also = torch.zeros(6, 7, dtype=torch.bool)
    also[1:, 1] = True
    return replace(base, row_id=torch.arange(6), negative_id=torch.arange(11), valid=valid, also_positive=also)


def own_sets() -> Contrast:
    """A set of negatives for each row."""
    valid = torch.rand(6, 8, generator=torch.Generator().manual_seed(9)) < 0.7
    valid[:, 0] = True
    return replace(table(), negatives=unit(6, 8, WIDTH, seed=10), valid=valid)


def dot() -> Contrast:
    """CPC: inner products of vectors of any length."""
    base = table_with_ids()
    return replace(base, query=base.query * 3, negatives=base.negatives * 2, score=Dot(0.1))


def clipped() -> Contrast:
    """AMDIM: a bent score and a penalty on its size."""
    base = many_positives()
    return replace(base, query=base.query * 3, score=Clipped(scale=0.5, limit=0.8, penalty=0.05))


def simclr() -> Contrast:
    """Each crop a query once; partners share their negatives."""
    query = unit(8, WIDTH, seed=11)
    image = torch.arange(4).repeat(2)
    return Contrast(query=query, positive=query.roll(4, 0), negatives=query, row_id=image, negative_id=image)


CASES: dict[str, Callable[[], Contrast]] = {
    case.__name__: case
    for case in (
        table,
        table_with_ids,
        many_positives,
        masked,
        joined,
        draws,
        draws_with_everything,
        own_sets,
        dot,
        clipped,
        simclr,
    )
}


def with_noise(contrast: Contrast) -> Contrast:
    """The same, for NCE."""
    return replace(contrast, also_positive=None, noise=Noise(num_images=40, log_normaliser=3.3))


def leaves(contrast: Contrast, *, negatives: bool = True, positive: bool = True) -> tuple[Contrast, list[Tensor]]:
    """A copy whose vectors ask for gradient, and those vectors."""
    names = ["query"] + ["positive"] * positive + ["negatives"] * negatives
    vectors = {name: getattr(contrast, name).detach().clone().requires_grad_() for name in names}
    return replace(contrast, **vectors), list(vectors.values())


@contextmanager
def tiny_blocks() -> Iterator[None]:
    """Every path in blocks of a few entries, so that small cases cross their borders, sweep included."""
    before = operator.FEW_SCORES, sweep.BLOCK_ROWS, sweep.BLOCK_NEGATIVES, rows.BLOCK_NUMBERS
    operator.FEW_SCORES, sweep.BLOCK_ROWS, sweep.BLOCK_NEGATIVES, rows.BLOCK_NUMBERS = 0, 4, 3, 50
    try:
        yield
    finally:
        operator.FEW_SCORES, sweep.BLOCK_ROWS, sweep.BLOCK_NEGATIVES, rows.BLOCK_NUMBERS = before
