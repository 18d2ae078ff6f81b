"""Two gloo processes give the losses, the weights and the queue of one, in float64, to 1e-9 over 20 steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from co2ssl import distributed
from co2ssl.data.batch import Batch
from co2ssl.encoders.batch_norm import BatchNormKind, convert_batch_norm
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head, mlp_head
from co2ssl.losses.objective import Objective
from co2ssl.methods.method import Method
from co2ssl.methods.moco import MoCo
from co2ssl.methods.simclr import SimCLR
from co2ssl.train.loop import gathered
from co2ssl.train.steps import in_parallel
from tests.parity import scenario
from tests.processes import ProcessPair

# Enough rows for a batch-norm group, and a learning rate at which rounding is not blown up over the steps.
STEPS, ROWS, LR = 20, 16, 0.01


def build(name: str, batch_norm: BatchNormKind, groups: int) -> Method:
    backbone = scenario.backbone()
    width = int(backbone.num_features)
    head = linear_head(width, 8) if name == "moco" else mlp_head(width, width, 8, batch_norm=True)
    encoder = Encoder(backbone, head).double()
    scenario.fill(encoder)
    convert_batch_norm(encoder, batch_norm, groups=groups if batch_norm == "split" else 1)
    if name == "simclr":
        return SimCLR(encoder).double()
    # A queue that the batch does not divide, so that the ring wraps in the middle of one.
    return MoCo(encoder, queue_size=27, ema_keep=0.9, permute_keys=groups > 1, seed=5).double()


def this_process(batch: Batch) -> Batch:
    share = distributed.rank_slice(ROWS)
    views = tuple(view[share] for view in batch.views)
    return Batch(views=views, index=batch.index[share], label=None, step=batch.step, epoch=0)


def train(name: str, batch_norm: BatchNormKind, groups: int) -> dict[str, Tensor]:
    """The losses of 20 steps, and every tensor the method holds at the end."""
    method = build(name, batch_norm, groups)
    assert isinstance(method, nn.Module)
    parallel = distributed.world_size() > 1
    forward = in_parallel(method) if parallel else method
    objective = Objective(temperature=0.2, consistency_weight=2.0, consistency_temperature=0.1)
    optimizer = torch.optim.SGD(method.encoder.parameters(), LR, momentum=0.9, weight_decay=1e-4)
    losses = []
    for number in range(STEPS):
        index = torch.arange(ROWS) + ROWS * number
        batch = this_process(
            Batch(views=scenario.views(number, rows=ROWS), index=index, label=None, step=number, epoch=0)
        )
        step = forward(batch)
        sums = objective(step.comparisons)
        rows = distributed.all_reduce_sum(torch.tensor(float(sums.count), dtype=torch.float64))
        optimizer.zero_grad()
        (sums.total * distributed.world_size() / rows).backward()
        optimizer.step()
        method.commit([gathered(step.update)])
        losses.append(distributed.all_reduce_sum(sums.total.detach()) / rows)
    return {"losses": torch.stack(losses), **method.state_dict()}


@pytest.mark.parametrize(
    ("name", "one", "two", "groups"),
    [
        ("moco", "plain", "sync", 1),
        ("moco", "split", "split", 4),
        ("moco", "split", "shuffle", 2),
        ("simclr", "plain", "sync", 1),
    ],
)
def test_two_processes_equal_one(
    two_processes: ProcessPair, name: str, one: BatchNormKind, two: BatchNormKind, groups: int
) -> None:
    expected = train(name, one, groups)
    results = two_processes(train, name, two, groups)
    # Statistics of split groups are kept by each process for its own groups.
    running = "running_" if one == "split" else "nothing is left out"
    for result in results:
        assert result.keys() == expected.keys()
        for key, value in expected.items():
            if running not in key:
                assert torch.allclose(result[key].double(), value.double(), rtol=1e-9, atol=1e-9), key
    assert bool((expected["losses"][1:] != expected["losses"][:-1]).all())
