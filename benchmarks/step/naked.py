"""The least that the step needs: the network alone, on tensors that are there already.

Query forward and backward, key forward (SimCLR: both views at once, forward and backward) and the optimiser's step, of
the same objects, in the same precision and layout, with the same batch norm. No views, no loss, no momentum update, no
queue, no log.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step.job import Clock, Job, main, work_done
from benchmarks.step.ours import recipe_of
from co2ssl.api.build import build_method
from co2ssl.cli.process import keep_freed_memory
from co2ssl.train.optim import build_optimizer


def run(job: Job) -> dict[str, Any]:
    """Images a second of the bare step."""
    keep_freed_memory()  # As ours.
    step, work = bare_step(job)
    clock = Clock(job)
    done = False
    while not done:
        step()
        done = clock.tick()
    return {**clock.report(), **work, "threads": torch.get_num_threads(), "torch": torch.__version__}


def bare_step(job: Job) -> tuple[Callable[[], None], dict[str, Any]]:
    """A function that takes one step, and what there is to it."""
    recipe = recipe_of(job)
    method = build_method(recipe, seed=job.seed)
    encoder, key_encoder = method.encoder, getattr(method, "key_encoder", None)
    assert isinstance(method, nn.Module)
    method.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(
        recipe.optimizer,
        method,
        lr=recipe.lr,
        momentum=recipe.optimizer_momentum,
        weight_decay=recipe.weight_decay,
    )
    shape = (job.batch_size, 3, job.image_size, job.image_size)
    views = [torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    trained = [torch.cat(views)] if job.method == "simclr" else views[:1]
    gradient = torch.randn(len(trained[0]), recipe.embedding_dim) / len(trained[0])

    def step() -> None:
        with autocast(job):
            embeddings: Tensor = encoder(trained[0])
            if key_encoder is not None:
                with torch.no_grad():
                    key_encoder(views[1])
        embeddings.backward(gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, work_done(
        parameters=sum(tensor.numel() for tensor in encoder.parameters()), views=[view.shape for view in views]
    )


def autocast(job: Job) -> AbstractContextManager[None]:
    """As the training loop does it."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if job.precision == "bf16" else nullcontext()


if __name__ == "__main__":
    main(run)
