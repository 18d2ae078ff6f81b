"""MoCo and MoCo v2: a queue of keys from a slowly moving copy of the encoder.

He et al., *Momentum Contrast for Unsupervised Visual Representation Learning*, CVPR 2020 (Algorithm 1), and
Chen et al., *Improved Baselines with Momentum Contrastive Learning*, 2020. The two differ in the recipe only:
views, head, temperature and schedule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from co2ssl import distributed
from co2ssl.data.batch import Batch
from co2ssl.data.hashing import step_permutation
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.momentum import momentum_copy, update_momentum
from co2ssl.encoders.permuted import permuted_forward
from co2ssl.losses.contrast import Contrast
from co2ssl.memory.queue import Queue
from co2ssl.methods.method import Step, Update


class MoCo(nn.Module):
    """Momentum contrast. The first view is the query, the second the key; the loss is asymmetric, as published.

    Args:
        encoder: the query encoder, (N, C, H, W) to unit embeddings (N, D). The paper's f_q.
        queue_size: keys kept as negatives. The paper's K.
        ema_keep: weight of the old value in the key encoder's moving average. The paper's m.
        permute_keys: forward the keys in an order drawn for each step and restore it afterwards, so that a
            query and its key never share their batch-norm group (the paper's shuffling BN, Section 3.3). Needs a
            batch norm with groups (``split`` or, over processes, ``shuffle``): with plain batch norm on one
            process it changes nothing.
        seed: of the queue's first rows and of the permutations.
        exclude_own: leave keys of the query's own image out of its negatives. Off in the paper.
        views: name of the view recipe: "moco-v1" or "moco-v2".
    """

    in_batch = False

    def __init__(
        self,
        encoder: Encoder,
        *,
        queue_size: int,
        ema_keep: float,
        permute_keys: bool,
        seed: int,
        exclude_own: bool = False,
        views: str = "moco-v1",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.key_encoder = momentum_copy(encoder)
        self.queue = Queue(queue_size, encoder.embedding_dim, seed=seed)
        self.ema_keep = ema_keep
        self.permute_keys = permute_keys
        self.seed = seed
        self.exclude_own = exclude_own
        self.views = views

    def begin(self, num_images: int) -> None:
        """Nothing to size: the queue's length is a setting."""

    def begin_epoch(self, epoch: int) -> None:
        """Nothing is recomputed between epochs."""

    def forward(self, batch: Batch) -> Step:
        """Compare each query with its key, against the queue as it stands.

        Args:
            batch: two views, each (N, C, H, W).

        Returns:
            One comparison of N rows; keys (N, D) and index (N,) for the queue.
        """
        query_images, key_images = batch.views
        query = self.encoder(query_images)  # (N, D)
        with torch.no_grad():
            keys = permuted_forward(self.key_encoder, key_images, self._permutation(batch))  # (N, D)
        contrast = Contrast(
            query=query,
            positive=keys,
            negatives=self.queue.keys,
            row_id=batch.index if self.exclude_own else None,
            negative_id=self.queue.index if self.exclude_own else None,
        )
        return Step(comparisons=(contrast,), update={"keys": keys, "index": batch.index})

    def commit(self, updates: Sequence[Update]) -> None:
        """Move the key encoder, then enqueue the keys (their order is the global batch's)."""
        update_momentum(self.key_encoder, self.encoder, self.ema_keep)
        for update in updates:
            self.queue.enqueue(update["keys"], update["index"])

    def _permutation(self, batch: Batch) -> Tensor | None:
        if not self.permute_keys:
            return None
        length = batch.index.shape[0] * distributed.world_size()
        return torch.from_numpy(step_permutation(self.seed, step=batch.step, length=length))
