"""A method, data and a loader small enough to train for two epochs in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from co2ssl.data.batch import Batch
from co2ssl.distributed import rank, world_size
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.objective import Objective
from co2ssl.methods.method import Step, Update
from co2ssl.train.checkpoint import CheckpointFolder
from co2ssl.train.log import MetricsLog
from co2ssl.train.loop import Rhythm, train
from co2ssl.train.optim import build_optimizer
from co2ssl.train.probing import Probe
from co2ssl.train.progress import Progress
from co2ssl.train.schedule import learning_rate_schedule
from co2ssl.train.state import Position

SIZE, DIM, QUEUE = 4, 6, 10
OBJECTIVE = Objective(temperature=0.2, consistency_weight=2.0, consistency_temperature=0.1)


class TinyEncoder(nn.Module):
    """(N, 3, 4, 4) to (N, 6), with a convolution, a batch norm and dropout, so that random state matters."""

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()
        )
        self.head = nn.Linear(8 * (SIZE - 2) ** 2, DIM)

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.head(self.backbone(images)), dim=1)


class TinyMethod(nn.Module):
    """A queue of past embeddings as negatives. Keeps the order in which rows are committed."""

    views = "moco-v1"
    keys: Tensor
    index: Tensor

    def __init__(self, *, dropout: float = 0.2, in_batch: bool = False) -> None:
        super().__init__()
        self.in_batch = in_batch
        self.encoder = TinyEncoder(dropout=dropout)
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("keys", normalize(torch.randn(QUEUE, DIM, generator=generator), dim=1))
        self.register_buffer("index", torch.full((QUEUE,), -1))
        self.begun: list[int] = []
        self.committed: list[list[list[int]]] = []

    def begin(self, num_images: int) -> None:
        self.num_images = num_images

    def begin_epoch(self, epoch: int) -> None:
        self.begun.append(epoch)

    def forward(self, batch: Batch) -> Step:
        query, key = (self.encoder(view) for view in batch.views)
        contrast = Contrast(query=query, positive=key.detach(), negatives=self.keys)
        return Step(comparisons=(contrast,), update={"keys": key.detach(), "index": batch.index})

    def commit(self, updates: Sequence[Update]) -> None:
        self.committed.append([update["index"].tolist() for update in updates])
        for update in updates:
            self.keys = torch.cat([self.keys, update["keys"]])[-QUEUE:]
            self.index = torch.cat([self.index, update["index"]])[-QUEUE:]


class TinyLoader:
    """Batches as a pure function of (epoch, step). ``shares`` splits the rows of a global batch unevenly over ranks."""

    def __init__(
        self, *, images: int = 24, batch: int = 4, shares: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> None:
        self.source = range(images)
        self.batch = batch
        self.shares = list(shares) or [batch // world_size()] * world_size()
        self.dtype = dtype
        self.steps_per_epoch = images // batch
        self.bad_step = -1

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.source), generator=torch.Generator().manual_seed(epoch))
        first = sum(self.shares[: rank()])
        rows = slice(first, first + self.shares[rank()])
        for step in range(first_step, self.steps_per_epoch):
            number = epoch * self.steps_per_epoch + step
            index = order[step * self.batch : (step + 1) * self.batch]
            generator = torch.Generator().manual_seed(1000 + number)
            views = [torch.randn(self.batch, 3, SIZE, SIZE, generator=generator, dtype=self.dtype) for _ in range(2)]
            if number == self.bad_step:
                views[0][0] = float("nan")
            yield Batch(
                views=tuple(view[rows] for view in views), index=index[rows], label=None, step=number, epoch=epoch
            )


def folder_of(run: Path) -> CheckpointFolder:
    return CheckpointFolder(run / "checkpoints", architecture="tiny", config_hash="abc")


def fit(
    run: Path,
    *,
    epochs: int,
    method: TinyMethod | None = None,
    loader: TinyLoader | None = None,
    resume: bool = False,
    optimizer: str = "sgd",
    accumulate: int = 1,
    probes: Sequence[Probe] = (),
    rhythm: Rhythm | None = None,
    schedule_epochs: int = 2,
) -> tuple[TinyMethod, torch.optim.Optimizer, Position]:
    """Train in a run folder, from the start or from its last checkpoint."""
    torch.manual_seed(3)
    run.mkdir(parents=True, exist_ok=True)
    method = method or TinyMethod()
    loader = loader or TinyLoader()
    made = build_optimizer(optimizer, method, lr=0.1, momentum=0.9, weight_decay=1e-3)  # type: ignore[arg-type]
    checkpoints = folder_of(run)
    saved: Mapping[str, Any] | None = checkpoints.load() if resume else None
    log = MetricsLog(run / "metrics.jsonl")
    steps = loader.steps_per_epoch // accumulate
    try:
        position = train(
            method,
            lambda _: OBJECTIVE,
            loader,
            optimizer=made,
            learning_rate=learning_rate_schedule("cosine-step", lr=0.1, epochs=schedule_epochs, steps_per_epoch=steps),
            epochs=epochs,
            device=torch.device("cpu"),
            log=log,
            progress=Progress(epochs=epochs, steps_per_epoch=steps, quiet=True),
            accumulate=accumulate,
            probes=probes,
            rhythm=rhythm or Rhythm(log_every=4, probe_every=1),
            checkpoints=checkpoints,
            saved=saved,
        )
    finally:
        log.close()
    return method, made, position


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
