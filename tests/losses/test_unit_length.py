"""Cosine scores refuse vectors of other lengths, without looking at a table twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from co2ssl.losses import Dot, contrastive_loss, info_nce, unit_length
from co2ssl.losses.unit_length import check_unit_length
from tests.losses.cases import CASES


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("name", ["query", "positive", "negatives"])
def test_other_lengths_are_refused_by_name(name: str, implementation: str) -> None:
    contrast = CASES["table"]()
    vectors = getattr(contrast, name).clone()
    vectors[2] *= 2
    with pytest.raises(ValueError, match=rf"1 of \d+ vectors in {name} .* length 2\).*normalise=True"):
        info_nce(replace(contrast, **{name: vectors}), temperature=0.1, implementation=implementation)  # type: ignore[arg-type]


def test_they_are_normalised_on_request_with_gradient() -> None:
    contrast = CASES["table"]()
    scaled = replace(contrast, query=(contrast.query * 3).requires_grad_(), negatives=contrast.negatives * 0.2)
    loss = contrastive_loss(scaled, temperature=0.1, consistency_weight=1, normalise=True)
    torch.testing.assert_close(loss.total, contrastive_loss(contrast, temperature=0.1, consistency_weight=1).total)
    (gradient,) = torch.autograd.grad(loss.total, scaled.query)
    assert gradient.abs().max() > 0
    # The length has no influence, so nothing points along the vector.
    torch.testing.assert_close(
        (gradient * scaled.query).sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_other_scores_take_vectors_of_any_length() -> None:
    contrast = CASES["table"]()
    assert info_nce(replace(contrast, query=contrast.query * 3, score=Dot()), temperature=0.1).isfinite()


def test_a_table_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    lengths = unit_length._lengths

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        looked.append(len(tensor))
        return lengths(tensor)

    monkeypatch.setattr(unit_length, "_lengths", counted)
    contrast = CASES["table"]()
    for _ in range(3):
        info_nce(contrast, temperature=0.1)
    assert looked.count(11) == 1
    info_nce(replace(contrast, negatives=contrast.negatives.clone()), temperature=0.1)
    assert looked.count(11) == 2


def test_where_the_host_may_not_wait_the_loss_is_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens under torch.compile and, after the first step, on a GPU."""
    contrast = CASES["table"]()
    info_nce(contrast, temperature=0.1)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    poison = check_unit_length(contrast)
    assert poison is not None
    assert float(poison) == 1
    broken = replace(contrast, query=contrast.query * torch.linspace(1, 2, 6)[:, None])
    loss = contrastive_loss(broken, temperature=0.1, consistency_weight=1)
    assert loss.total.isnan()
    assert loss.instance.isnan()
    assert loss.consistency.isnan()


def test_what_is_refused_once_is_refused_again() -> None:
    wrong = CASES["table"]()
    wrong = replace(wrong, negatives=wrong.negatives * 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="vectors in negatives are not of unit length"):
            info_nce(wrong, temperature=0.1)


def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[int]]:
    """Have tensors of the CPU checked as if the host had to wait for them.

    Returns:
        names of the vectors that it waited for, and numbers of rows that were looked at, with or without waiting; both
        go on growing.
    """
    waited: list[str] = []
    looked: list[int] = []
    refuse, lengths = unit_length._refuse, unit_length._lengths

    def waiting(named: dict[str, torch.Tensor]) -> None:
        waited.extend(named)
        refuse(named)

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        looked.append(len(tensor))
        return lengths(tensor)

    monkeypatch.setattr(unit_length, "_is_on_host", lambda _: False)
    monkeypatch.setattr(unit_length, "_waited_for", set())
    monkeypatch.setattr(unit_length, "_refuse", waiting)
    monkeypatch.setattr(unit_length, "_lengths", counted)
    return waited, looked


@pytest.mark.parametrize("made", ["with gradient", "cloned", "normalised"])
def test_an_accelerator_is_waited_for_once_where_every_step_makes_its_table(
    made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, _ = as_on_an_accelerator(monkeypatch)
    contrast = CASES["table"]()
    for _ in range(4):
        table = contrast.negatives.clone().requires_grad_(made == "with gradient")
        given = replace(contrast, negatives=table)
        assert contrastive_loss(given, temperature=0.1, normalise=made == "normalised").total.isfinite()
    assert waited == ["query", "positive", "negatives"]
    # Not waited for is not unseen.
    assert info_nce(replace(contrast, negatives=contrast.negatives * 2), temperature=0.1).isnan()
    assert waited == ["query", "positive", "negatives"]
    # Of another shape it is a first time again.
    info_nce(replace(contrast, negatives=contrast.negatives[:7].clone()), temperature=0.1)
    assert waited == 2 * ["query", "positive", "negatives"]


def test_a_table_that_lives_on_is_waited_for_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, looked = as_on_an_accelerator(monkeypatch)
    contrast = CASES["table"]()
    info_nce(contrast, temperature=0.1)
    read = looked.count(11)
    for _ in range(3):
        info_nce(contrast, temperature=0.1)
    assert looked.count(11) == read
    assert waited == ["query", "positive", "negatives"]


def test_a_lasting_table_with_gradient_is_never_taken_on_trust() -> None:
    contrast = CASES["table"]()
    learnt = contrast.negatives.clone().requires_grad_()
    info_nce(replace(contrast, negatives=learnt), temperature=0.1)
    with torch.no_grad():
        learnt.mul_(2)
    with pytest.raises(ValueError, match="vectors in negatives are not of unit length"):
        info_nce(replace(contrast, negatives=learnt), temperature=0.1)
