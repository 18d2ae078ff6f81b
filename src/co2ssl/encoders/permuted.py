"""Forward the images in another order, and hand the embeddings back in theirs: MoCo's shuffling BN.

He et al., CVPR 2020, Section 3.3. Batch norm lets rows of one group see each other. If a query and its key
sat in groups of the same images, the statistics would give the pair away; so the keys are permuted over the
whole (global) batch before the key encoder and restored afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from co2ssl.distributed import gather, rank_slice, world_size


@torch.no_grad()
def permuted_forward(encoder: nn.Module, images: Tensor, permutation: Tensor | None) -> Tensor:
    """Embeddings of this process's images, computed with the global batch in the order ``permutation``.

    The permuted global batch is cut in contiguous shares as the unpermuted one is, so the groups of ``split``
    batch norm on one process hold the same images as those of the same number of groups on many.

    Args:
        encoder: (n, C, H, W) to (n, D).
        images: (n, C, H, W), this process's rows of the global batch; n is the same on every process.
        permutation: int64 (n * processes,), the same on every process: place i of the permuted batch holds
            row ``permutation[i]``. None: no permutation, and nothing is exchanged.

    Returns:
        (n, D) in the order of ``images``, without gradient.

    Raises:
        ValueError: the permutation does not fit the global batch.
    """
    if permutation is None:
        embeddings: Tensor = encoder(images)
        return embeddings
    length = images.shape[0] * world_size()
    if permutation.dtype != torch.int64 or tuple(permutation.shape) != (length,):
        raise ValueError(
            f"the permutation must be int64 ({length},), one entry for each row of the global batch, "
            f"got {permutation.dtype} {tuple(permutation.shape)}"
        )
    permutation = permutation.to(images.device, non_blocking=True)
    share = rank_slice(length)
    permuted = _rows_of_global_batch(images, permutation[share])
    embeddings = gather(encoder(permuted))  # (length, D), in the permuted order
    return embeddings.index_select(0, permutation.argsort()[share])


def _rows_of_global_batch(images: Tensor, rows: Tensor) -> Tensor:
    if not images.is_contiguous(memory_format=torch.channels_last):
        return gather(images).index_select(0, rows)
    # Gathering and indexing return row-major tensors: seen as (n, H, W, C), that is the layout to keep.
    return gather(images.permute(0, 2, 3, 1)).index_select(0, rows).permute(0, 3, 1, 2)
