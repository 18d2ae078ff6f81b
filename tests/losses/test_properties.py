"""Whatever the shapes, ids, draws, masks and temperatures: the explicit loops agree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from co2ssl.losses import Clipped, Contrast, Cosine, Dot, Score, contrastive_loss
from tests.losses.cases import leaves, tiny_blocks, unit
from tests.reference import entries_of, loop_terms

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
small = st.integers(1, 4)


@st.composite
def contrasts(draw: st.DrawFn) -> Contrast:
    """Any comparison in which every row keeps a negative."""
    rows, width, entries = draw(small), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    positives = draw(st.sampled_from([None, 1, 2]))
    kind = draw(st.sampled_from(["table", "ids", "draws", "draws with ids", "own"]))
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    query = unit(rows, width, seed=seed)
    positive = unit(rows, width, seed=seed + 1) if positives is None else unit(rows, positives, width, seed=seed + 1)
    negatives = unit(rows, entries, width, seed=seed + 2) if kind == "own" else unit(entries, width, seed=seed + 2)
    contrast = Contrast(query=query, positive=positive, negatives=negatives)
    if "draws" in kind:
        index = torch.randint(0, entries, (rows, draw(st.integers(1, 6))), generator=generator)
        contrast = replace(contrast, negative_index=index)
    if "ids" in kind:
        row_id = torch.randint(0, 3, (rows,), generator=generator)
        contrast = replace(contrast, row_id=row_id, negative_id=torch.randint(0, 3, (entries,), generator=generator))
    shape = (rows, contrast.num_negatives)
    if draw(st.booleans()):
        contrast = replace(contrast, valid=torch.rand(shape, generator=generator) < 0.7)
    if draw(st.booleans()):
        contrast = replace(contrast, also_positive=torch.rand(shape, generator=generator) < 0.3)
    scores: list[Score] = [Cosine(), Dot(0.3), Clipped(scale=0.7, limit=0.6, penalty=0.1)]
    score = draw(st.sampled_from(scores))
    return replace(contrast, score=score)


def every_row_keeps_a_negative(contrast: Contrast) -> bool:
    return all(any(not also for _, also in entries_of(contrast, row)) for row in range(contrast.num_rows))


@FEW
@given(
    contrast=contrasts().filter(every_row_keeps_a_negative),
    temperature=st.floats(math.log(0.01), math.log(10)).map(math.exp),
    cool=st.floats(math.log(0.01), math.log(10)).map(math.exp),
    direction=st.sampled_from(["symmetric", "forward", "reverse"]),
    detach=st.booleans(),
    constant_table=st.booleans(),
)
def test_blocked_is_the_loops(
    contrast: Contrast, temperature: float, cool: float, direction: str, detach: bool, constant_table: bool
) -> None:
    ours, vectors = leaves(contrast, negatives=not constant_table)
    loops, loop_vectors = leaves(contrast, negatives=not constant_table)
    with tiny_blocks():
        loss = contrastive_loss(
            ours,
            temperature=temperature,
            consistency_weight=1.5,
            consistency_temperature=cool,
            direction=direction,  # type: ignore[arg-type]
            detach_positive=detach,
            reduction="sum",
            implementation="blocked",
        )
        gradients = torch.autograd.grad(loss.total, vectors)
    terms = loop_terms(
        loops, temperature=temperature, consistency_temperature=cool, direction=direction, detach_positive=detach
    )
    total = (terms.instance + 1.5 * terms.consistency).sum()
    torch.testing.assert_close(loss.total, total, rtol=1e-8, atol=1e-8)
    expected = torch.autograd.grad(total, loop_vectors, materialize_grads=True)
    for gradient, of_loops in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, of_loops, rtol=1e-7, atol=1e-7 / min(temperature, cool))


@FEW
@given(contrast=contrasts())
def test_a_row_without_negatives_is_an_error_and_never_a_number(contrast: Contrast) -> None:
    with tiny_blocks():
        if every_row_keeps_a_negative(contrast):
            assert contrastive_loss(contrast, temperature=0.2, consistency_weight=1).total.isfinite()
        else:
            with pytest.raises(ValueError, match="no negative"):
                contrastive_loss(contrast, temperature=0.2, consistency_weight=1)


@FEW
@given(
    contrast=contrasts().filter(every_row_keeps_a_negative),
    direction=st.sampled_from(["symmetric", "forward", "reverse"]),
)
def test_a_divergence_is_never_negative_and_does_not_depend_on_the_order_of_negatives(
    contrast: Contrast, direction: str
) -> None:
    with tiny_blocks():
        loss = contrastive_loss(contrast, temperature=0.2, consistency_weight=1, direction=direction)  # type: ignore[arg-type]
        assert float(loss.consistency) > -1e-12
        if contrast.negatives.dim() == 2 and contrast.negative_index is None:
            order = torch.arange(contrast.num_negatives).flip(0)
            other = replace(contrast, negatives=contrast.negatives[order])
            for name in ("valid", "also_positive"):
                if getattr(contrast, name) is not None:
                    other = replace(other, **{name: getattr(contrast, name)[:, order]})
            if contrast.negative_id is not None:
                other = replace(other, negative_id=contrast.negative_id[order])
            again = contrastive_loss(other, temperature=0.2, consistency_weight=1, direction=direction)  # type: ignore[arg-type]
            torch.testing.assert_close(again.total, loss.total)
