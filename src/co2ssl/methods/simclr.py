"""SimCLR: the other images of the batch are the negatives.

Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML 2020 (Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from co2ssl.data.batch import Batch
from co2ssl.distributed import gather, gather_with_gradient
from co2ssl.encoders.encoder import Encoder
from co2ssl.losses.contrast import Contrast
from co2ssl.methods.method import Step, Update


class SimCLR(nn.Module):
    """NT-Xent: each of the 2N crops is a query once, its partner the positive, all other crops its negatives.

    Args:
        encoder: (N, C, H, W) to unit embeddings (N, D). The paper's g(f(x)), normalised.
        views: name of the view recipe: "simclr".
    """

    in_batch = True

    def __init__(self, encoder: Encoder, *, views: str = "simclr") -> None:
        super().__init__()
        self.encoder = encoder
        self.views = views

    def begin(self, num_images: int) -> None:
        """Nothing to size: there is no memory."""

    def begin_epoch(self, epoch: int) -> None:
        """Nothing is recomputed between epochs."""

    def forward(self, batch: Batch) -> Step:
        """Compare every crop with its partner, against all crops of other images in the global batch.

        Args:
            batch: two views, each (N, C, H, W).

        Returns:
            One comparison of 2N rows against (2N x processes) candidates that carry gradient; a row's own
            crop and its partner are left out by the image's index.
        """
        embeddings = self.encoder(torch.cat(batch.views))  # (2N, D)
        first, second = embeddings.chunk(2)
        rows = embeddings.shape[0]
        identity = batch.index.repeat(2)  # (2N,)
        contrast = Contrast(
            query=embeddings,
            positive=torch.cat([second, first]),
            negatives=gather_with_gradient(embeddings),
            row_id=identity,
            negative_id=gather(identity),
            # P of a row is Q of its partner: in blocks the consistency term then costs no product more. The GPU
            # kernels do not use it, and score the positive as they would any other.
            partner=torch.arange(rows, device=embeddings.device).roll(rows // 2),
        )
        return Step(comparisons=(contrast,))

    def commit(self, updates: Sequence[Update]) -> None:
        """Nothing is remembered between steps."""
