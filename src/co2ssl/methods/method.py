"""The seam between methods and everything else: ``Step`` and the ``Method`` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from co2ssl.data.batch import Batch
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.prediction import Prediction, Triplet

Comparison: TypeAlias = Contrast | Prediction | Triplet
Update: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one forward pass of a method returns.

    Attributes:
        comparisons: what the objective turns into a number: the weighted sum over them.
        update: what memory must learn from this batch, detached; every tensor has N rows in the batch's order.
    """

    comparisons: tuple[Comparison, ...]
    update: Update = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """A way of learning from unlabelled images. An ``nn.Module`` that satisfies this; there is no base class.

    The loop calls, for every optimiser step: ``forward`` on each micro-batch, the backward pass, the
    optimiser, and then ``commit`` with the updates of all micro-batches and processes in global sample order.
    """

    views: str
    """Name of the view recipe this method is published with (a key of ``co2ssl.data.views.VIEW_RECIPES``)."""
    in_batch: bool
    """True where negatives come from the batch itself: gradient accumulation would change the loss, and is refused."""

    @property
    def encoder(self) -> nn.Module:
        """What is exported and evaluated: maps (N, C, H, W) to embeddings (N, D) and has ``.backbone``."""

    def begin(self, num_images: int) -> None:
        """Called once, before the first step or before a checkpoint is loaded (a bank takes its size here)."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, on every process (k-means of Local Aggregation)."""

    def forward(self, batch: Batch) -> Step:
        """Comparisons of one (micro-)batch. Apart from batch-norm statistics nothing is changed."""

    def commit(self, updates: Sequence[Update]) -> None:
        """Called after the optimiser step: momentum copy, enqueue, bank write."""

    def __call__(self, batch: Batch) -> Step:
        """``forward`` with the module's hooks (what DDP wraps)."""
