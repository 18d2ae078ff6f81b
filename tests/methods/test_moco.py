from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from co2ssl.data.batch import Batch
from co2ssl.encoders.batch_norm import convert_batch_norm
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head
from co2ssl.encoders.resnet import resnet
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.objective import Objective
from co2ssl.methods.moco import MoCo


def moco(*, exclude_own: bool = False, permute_keys: bool = True, groups: int = 2, keep: float = 0.9) -> MoCo:
    torch.manual_seed(0)
    backbone = resnet("resnet18", width=1 / 16, stem="small")
    encoder = Encoder(backbone, linear_head(backbone.num_features, 8))
    if groups > 1:
        convert_batch_norm(encoder, "split", groups=groups)
    return MoCo(encoder, queue_size=10, ema_keep=keep, permute_keys=permute_keys, seed=3, exclude_own=exclude_own)


def a_batch(step: int = 0, rows: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    views = tuple(torch.randn(rows, 3, 8, 8, generator=generator) for _ in range(2))
    return Batch(views=views, index=torch.arange(rows) + step, label=None, step=step, epoch=0)


def only(comparisons: object) -> Contrast:
    assert isinstance(comparisons, tuple)
    (contrast,) = comparisons
    assert isinstance(contrast, Contrast)
    return contrast


def test_the_keys_of_this_batch_are_not_among_its_negatives() -> None:
    method = moco()
    step = method(a_batch())
    contrast = only(step.comparisons)
    assert float((contrast.positive @ contrast.negatives.T).max()) < 0.999
    method.commit([step.update])
    assert torch.equal(method.queue.keys[:8], contrast.positive)
    assert method.queue.index[:8].tolist() == list(range(8))


def test_only_the_query_encoder_gets_a_gradient() -> None:
    method = moco()
    contrast = only(method(a_batch()).comparisons)
    Objective(temperature=0.2, consistency_weight=10.0)((contrast,)).total.backward()
    assert all(parameter.grad is not None for parameter in method.encoder.parameters())
    assert all(parameter.grad is None for parameter in method.key_encoder.parameters())
    assert not contrast.positive.requires_grad
    assert not contrast.negatives.requires_grad


def test_commit_moves_the_key_encoder_by_the_share_it_does_not_keep() -> None:
    method = moco(keep=0.75)
    step = method(a_batch())
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    old = [parameter.clone() for parameter in method.key_encoder.parameters()]
    method.commit([step.update])
    for before, after in zip(old, method.key_encoder.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.25)


def test_permuted_keys_sit_in_other_groups_and_come_back_in_order() -> None:
    seen: list[torch.Tensor] = []
    method = moco()
    method.key_encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = a_batch(step=4)
    keys = only(method(batch).comparisons).positive
    order = [int((seen[0] == image).flatten(1).all(1).int().argmax()) for image in batch.views[1]]
    assert sorted(order) == list(range(8))
    assert order != list(range(8))
    # The same images forwarded by hand in that order, restored by hand.
    fresh = moco()
    by_hand = fresh.key_encoder(batch.views[1][torch.tensor(order).argsort()])[torch.tensor(order)]
    torch.testing.assert_close(keys, by_hand)
    # Batch norm lets groups matter: the unpermuted forward pass gives other keys.
    unpermuted = moco(permute_keys=False)
    assert not torch.allclose(only(unpermuted(batch).comparisons).positive, keys, atol=1e-4)


def test_the_permutation_is_a_function_of_seed_and_step() -> None:
    first, again = (only(moco()(a_batch(step=7)).comparisons).positive for _ in range(2))
    assert torch.equal(first, again)
    a, b = moco()._permutation(a_batch(step=7)), moco()._permutation(a_batch(step=8))
    assert a is not None
    assert b is not None
    assert not torch.equal(a, b)


def test_own_keys_can_be_left_out() -> None:
    method = moco(exclude_own=True)
    for number in range(2):
        step = method(a_batch())  # the same images twice
        method.commit([step.update])
        del number
    contrast = only(method(a_batch()).comparisons)
    assert contrast.row_id is not None
    assert contrast.negative_id is not None
    own = contrast.row_id[:, None] == contrast.negative_id[None, :]
    assert bool(own.any(1).all())
    assert only(moco()(a_batch()).comparisons).row_id is None


def test_a_saved_method_continues_to_the_bit() -> None:
    def losses(method: MoCo, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        values = []
        for number in steps:
            step = method(a_batch(number))
            sums = Objective(temperature=0.2, consistency_weight=1.0)(step.comparisons)
            optimizer.zero_grad()
            sums.total.backward()
            optimizer.step()
            method.commit([step.update])
            values.append(float(sums.total.detach()))
        return values

    def sgd(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)

    whole = moco()
    whole_optimizer = sgd(whole.encoder)
    losses(whole, whole_optimizer, range(3))
    saved, saved_optimizer = copy.deepcopy((whole.state_dict(), whole_optimizer.state_dict()))
    resumed = moco()
    resumed_optimizer = sgd(resumed.encoder)
    resumed.load_state_dict(saved)
    resumed_optimizer.load_state_dict(saved_optimizer)
    assert losses(whole, whole_optimizer, range(3, 6)) == losses(resumed, resumed_optimizer, range(3, 6))


@pytest.mark.parametrize("rows", [8, 6])
def test_any_batch_goes_into_any_queue(rows: int) -> None:
    method = moco()
    written: list[int] = []
    for number in range(3):
        step = method(a_batch(number * 10, rows))
        method.commit([step.update])
        written += [number * 10 + row for row in range(rows)]
    assert sorted(method.queue.index.tolist()) == sorted(written[-10:])
