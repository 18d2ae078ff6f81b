"""The seam between methods and losses, held by fakes of every kind of method that is to come.

Each fake builds its comparison the way its paper would; the expected value is written out in loops here, from the
definition, so that the seam cannot drift with the code behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from co2ssl import distributed
from co2ssl.data.batch import Batch
from co2ssl.errors import UsageError
from co2ssl.losses.contrast import Clipped, Contrast, Cosine
from co2ssl.losses.objective import Objective
from co2ssl.losses.prediction import Prediction
from co2ssl.methods.method import Method, Step, Update
from co2ssl.methods.moco import MoCo
from co2ssl.methods.simclr import SimCLR
from co2ssl.train.loop import gathered
from tests.processes import ProcessPair

TEMPERATURE, CONSISTENCY_TEMPERATURE, ALPHA = 0.2, 0.1, 3.0
CO2 = Objective(temperature=TEMPERATURE, consistency_weight=ALPHA, consistency_temperature=CONSISTENCY_TEMPERATURE)
PLAIN = Objective(temperature=TEMPERATURE)


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def loop_row(q: list[float], p: list[float], negatives: list[list[float]], also: Sequence[bool] = ()) -> float:
    """L_ins + alpha L_con of one row, from the paper's formulas, in plain floats."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    also = also or [False] * len(negatives)
    numerator = math.exp(dot(q, p) / TEMPERATURE) + sum(
        math.exp(dot(q, n) / TEMPERATURE) for n, join in zip(negatives, also, strict=True) if join
    )
    denominator = math.exp(dot(q, p) / TEMPERATURE) + sum(math.exp(dot(q, n) / TEMPERATURE) for n in negatives)
    kept = [n for n, join in zip(negatives, also, strict=True) if not join]
    weights_p = [math.exp(dot(p, n) / CONSISTENCY_TEMPERATURE) for n in kept]
    weights_q = [math.exp(dot(q, n) / CONSISTENCY_TEMPERATURE) for n in kept]
    divergence = 0.0
    for wp, wq in zip(weights_p, weights_q, strict=True):
        big_p, big_q = wp / sum(weights_p), wq / sum(weights_q)
        divergence += 0.5 * big_p * math.log(big_p / big_q) + 0.5 * big_q * math.log(big_q / big_p)
    return -math.log(numerator / denominator) + ALPHA * divergence


class FakeEncoder(nn.Module):
    """Two numbers in, a unit vector of four out: enough for a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(4, 12))
            self.linear.bias.copy_(torch.linspace(0.3, -0.2, 4, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.linear(images.flatten(1)), dim=1)


class FakeMethod(nn.Module):
    """What the fakes share: an encoder, and nothing to remember."""

    views = "moco-v1"
    in_batch = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = FakeEncoder()

    def begin(self, num_images: int) -> None:
        pass

    def begin_epoch(self, epoch: int) -> None:
        pass

    def commit(self, updates: Sequence[Update]) -> None:
        pass


class BankDraws(FakeMethod):
    """InsDisc: the positive is the image's own row of the bank, the negatives are draws from it by index."""

    def __init__(self) -> None:
        super().__init__()
        self.bank: Tensor
        self.draws = torch.tensor([[3, 4, 5], [0, 4, 6], [1, 1, 7], [2, 5, 0]])

    def begin(self, num_images: int) -> None:
        self.register_buffer("bank", units(num_images, 4, seed=3))

    def forward(self, batch: Batch) -> Step:
        query = self.encoder(batch.views[0])
        contrast = Contrast(
            query=query,
            positive=self.bank[batch.index],
            negatives=self.bank,
            # A function of the image, not of its place in the batch: the same on any number of processes.
            negative_index=(self.draws[batch.index % 4] + batch.index[:, None] // 4 * 4) % len(self.bank),
        )
        return Step(comparisons=(contrast,), update={"feature": query.detach(), "index": batch.index})

    def commit(self, updates: Sequence[Update]) -> None:
        for update in updates:
            rows = 0.5 * self.bank[update["index"]] + 0.5 * update["feature"]
            self.bank[update["index"]] = normalize(rows, dim=1)


class TwoWeighted(FakeMethod):
    """PIRL and CMC: two comparisons with shares of their own, against one table."""

    def forward(self, batch: Batch) -> Step:
        first, second = (self.encoder(view) for view in batch.views)
        table = units(6, 4, seed=4)
        return Step(
            comparisons=(
                Contrast(query=first, positive=second.detach(), negatives=table, weight=0.25),
                Contrast(query=second, positive=first.detach(), negatives=table, weight=0.75),
            )
        )


class InBatchIds(FakeMethod):
    """CPC and SimCLR: the candidates are this batch's own vectors and carry gradient; ids mark the row's own."""

    in_batch = True

    def forward(self, batch: Batch) -> Step:
        first, second = (self.encoder(view) for view in batch.views)
        contrast = Contrast(
            query=first,
            positive=second,
            negatives=torch.cat([first, second]),
            row_id=batch.index,
            negative_id=batch.index.repeat(2),
        )
        return Step(comparisons=(contrast,))


class ManyPositives(FakeMethod):
    """AMDIM: M positives a row against the same negatives, averaged, with a clipped and penalised score."""

    score = Clipped(scale=0.5, limit=20.0, penalty=0.05)

    def forward(self, batch: Batch) -> Step:
        first, second = (self.encoder(view) for view in batch.views)
        positive = torch.stack([second, second.flip(1), -second], dim=1)  # (N, 3, D)
        contrast = Contrast(query=first, positive=positive, negatives=units(5, 4, seed=5), score=self.score)
        return Step(comparisons=(contrast,))


class CloseNeighbours(FakeMethod):
    """Local Aggregation: some entries join the numerator and leave P and Q."""

    also = torch.tensor([[True, False, False, True, False, False]] * 4)

    def forward(self, batch: Batch) -> Step:
        first, second = (self.encoder(view) for view in batch.views)
        contrast = Contrast(
            query=first,
            positive=second.detach(),
            negatives=units(6, 4, seed=6),
            also_positive=self.also[: len(first)],
        )
        return Step(comparisons=(contrast,))


class Pretext(FakeMethod):
    """Rotation: a task with known answers."""

    def forward(self, batch: Batch) -> Step:
        target = batch.index % 4
        return Step(comparisons=(Prediction(logits=self.encoder(batch.views[0]), target=target),))


FAKES: list[type[FakeMethod]] = [BankDraws, TwoWeighted, InBatchIds, ManyPositives, CloseNeighbours, Pretext]


def a_batch(rows: int = 4, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(11 + step)
    views = tuple(torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(views=views, index=torch.arange(rows), label=None, step=step, epoch=0)


def run(fake: FakeMethod, objective: Objective, batch: Batch) -> tuple[Step, float, float]:
    """The step, its total per row, and the size of the gradient that reaches the encoder."""
    step = fake(batch)
    sums = objective(step.comparisons)
    fake.zero_grad()
    sums.total.backward()
    assert fake.encoder.linear.weight.grad is not None
    return step, float(sums.total.detach()) / len(batch.index), float(fake.encoder.linear.weight.grad.norm())


@pytest.mark.parametrize("kind", FAKES)
def test_every_fake_is_a_method_and_forward_changes_nothing(kind: type[FakeMethod]) -> None:
    fake = kind()
    fake.begin(8)
    assert isinstance(fake, Method)
    before = {name: value.clone() for name, value in fake.state_dict().items()}
    fake(a_batch())
    for name, value in fake.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", [MoCo, SimCLR])
def test_the_real_methods_satisfy_the_protocol(kind: type[MoCo | SimCLR]) -> None:
    for name in ("forward", "commit", "begin", "begin_epoch"):
        assert callable(getattr(kind, name))
    assert isinstance(kind.in_batch, bool)


def test_draws_from_a_table() -> None:
    fake = BankDraws()
    fake.begin(8)
    _, total, gradient = run(fake, CO2, a_batch())
    query = fake.encoder(a_batch().views[0]).tolist()
    bank = fake.bank.tolist()
    expected = sum(loop_row(query[i], bank[i], [bank[j] for j in fake.draws[i].tolist()]) for i in range(4)) / 4
    assert total == pytest.approx(expected, rel=1e-12)
    assert gradient > 0


def test_two_comparisons_are_added_with_their_weights() -> None:
    fake = TwoWeighted()
    _, total, _ = run(fake, CO2, a_batch())
    first, second = (fake.encoder(view).tolist() for view in a_batch().views)
    table = units(6, 4, seed=4).tolist()
    one = sum(loop_row(first[i], second[i], table) for i in range(4)) / 4
    other = sum(loop_row(second[i], first[i], table) for i in range(4)) / 4
    assert total == pytest.approx(0.25 * one + 0.75 * other, rel=1e-12)


def test_ids_leave_the_rows_own_out_and_gradient_reaches_the_negatives() -> None:
    fake = InBatchIds()
    step, total, _ = run(fake, CO2, a_batch())
    first, second = (fake.encoder(view).tolist() for view in a_batch().views)
    expected = 0.0
    for i in range(4):
        others = [vectors[j] for vectors in (first, second) for j in range(4) if j != i]
        expected += loop_row(first[i], second[i], others) / 4
    assert total == pytest.approx(expected, rel=1e-12)

    contrast = step.comparisons[0]
    assert isinstance(contrast, Contrast)
    negatives = contrast.negatives.detach().requires_grad_()
    alone = Contrast(
        query=contrast.query.detach(),
        positive=contrast.positive.detach(),
        negatives=negatives,
        row_id=contrast.row_id,
        negative_id=contrast.negative_id,
    )
    CO2((alone,)).total.backward()
    assert negatives.grad is not None
    assert bool((negatives.grad.norm(dim=1) > 0).all())


def test_many_positives_are_averaged_against_the_same_negatives() -> None:
    fake = ManyPositives()
    step, total, _ = run(fake, PLAIN, a_batch())
    contrast = step.comparisons[0]
    assert isinstance(contrast, Contrast)

    def score(a: Tensor, b: Tensor) -> float:
        return 20.0 * math.tanh(float(a @ b) * 0.5 / 20.0)

    expected = 0.0
    for query, positives in zip(contrast.query.detach(), contrast.positive.detach(), strict=True):
        noise = [math.exp(score(query, n) / TEMPERATURE) for n in contrast.negatives]
        for positive in positives:
            hit = math.exp(score(query, positive) / TEMPERATURE)
            expected -= math.log(hit / (hit + sum(noise))) / 3 / 4
    squares = [float((0.5 * q @ n) ** 2) for q in contrast.query.detach() for n in contrast.negatives]
    squares += [
        float((0.5 * q @ p) ** 2)
        for q, ps in zip(contrast.query.detach(), contrast.positive.detach(), strict=True)
        for p in ps
    ]
    assert total == pytest.approx(expected + 0.05 * sum(squares) / len(squares), rel=1e-12)


def test_entries_that_join_the_numerator_leave_both_distributions() -> None:
    fake = CloseNeighbours()
    _, total, _ = run(fake, CO2, a_batch())
    first, second = (fake.encoder(view).tolist() for view in a_batch().views)
    table = units(6, 4, seed=6).tolist()
    expected = sum(loop_row(first[i], second[i], table, fake.also[i].tolist()) for i in range(4)) / 4
    assert total == pytest.approx(expected, rel=1e-12)


def test_a_pretext_task_runs_alone_and_refuses_consistency() -> None:
    fake = Pretext()
    _, total, _ = run(fake, PLAIN, a_batch())
    logits = fake.encoder(a_batch().views[0])
    expected = nn.functional.cross_entropy(logits, torch.arange(4)).detach()
    assert total == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(UsageError, match="negatives"):
        CO2(fake(a_batch()).comparisons)


@pytest.mark.parametrize("kind", [BankDraws, TwoWeighted, InBatchIds, CloseNeighbours])
def test_weight_zero_is_the_baseline_to_the_bit(kind: type[FakeMethod]) -> None:
    gradients, totals = [], []
    off = Objective(temperature=TEMPERATURE, consistency_weight=0.0, consistency_temperature=0.05)
    for objective in (PLAIN, off):
        fake = kind()
        fake.begin(8)
        _, total, _ = run(fake, objective, a_batch())
        totals.append(total)
        gradients.append(fake.encoder.linear.weight.grad)
    assert totals[0] == totals[1]
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("kind", [BankDraws, TwoWeighted, InBatchIds, CloseNeighbours])
def test_the_term_moves_the_encoder(kind: type[FakeMethod]) -> None:
    gradients = []
    for objective in (PLAIN, CO2):
        fake = kind()
        fake.begin(8)
        run(fake, objective, a_batch())
        gradients.append(fake.encoder.linear.weight.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert float((gradients[1] - gradients[0]).norm()) > 1e-3


def two_steps_of_a_bank(accumulate: int) -> dict[str, Tensor]:
    """The bank and the weights after the steps that ``accumulate`` batches of four images make of four batches."""
    fake = BankDraws()
    fake.begin(16)
    optimizer = torch.optim.SGD(fake.encoder.parameters(), 0.1)
    share = distributed.rank_slice(4)
    for first in range(0, 4, accumulate):
        updates, rows = [], 0
        for number in range(first, first + accumulate):
            whole = a_batch(step=number)
            mine = Batch(
                views=tuple(view[share] for view in whole.views),
                index=whole.index[share] + 4 * number,
                label=None,
                step=number,
                epoch=0,
            )
            step = fake(mine)
            sums = CO2(step.comparisons)
            sums.total.backward()
            updates.append(gathered(step.update))
            rows += int(distributed.all_reduce_sum(torch.tensor(sums.count)))
        for parameter in fake.encoder.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(distributed.all_reduce_sum(parameter.grad) / rows)
        optimizer.step()
        optimizer.zero_grad()
        fake.commit(updates)
    return {"bank": fake.bank, **fake.encoder.state_dict()}


def test_two_micro_batches_are_committed_together_in_the_order_of_the_samples() -> None:
    start = units(16, 4, seed=3)
    fake = BankDraws()
    with torch.no_grad():
        features = [fake.encoder(a_batch(step=number).views[0]) for number in range(2)]
    expected = normalize(0.5 * start[:8] + 0.5 * torch.cat(features), dim=1)
    # Both micro-batches of the first step saw the starting weights and the starting bank.
    torch.testing.assert_close(two_steps_of_a_bank(accumulate=2)["bank"][:8], expected, rtol=0, atol=1e-12)
    assert not torch.allclose(two_steps_of_a_bank(accumulate=1)["bank"][4:8], expected[4:], atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_commit_what_one_does(two_processes: ProcessPair, accumulate: int) -> None:
    expected = two_steps_of_a_bank(accumulate)
    for result in two_processes(two_steps_of_a_bank, accumulate):
        for name, value in expected.items():
            torch.testing.assert_close(result[name], value, rtol=0, atol=1e-12)


def test_the_default_score_is_the_cosine() -> None:
    contrast = Contrast(query=units(2, 4, seed=0), positive=units(2, 4, seed=1), negatives=units(3, 4, seed=2))
    assert contrast.score == Cosine()
