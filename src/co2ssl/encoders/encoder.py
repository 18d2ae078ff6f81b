"""``Encoder``: a backbone and a head, ending in unit vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co2ssl.encoders.resnet import Backbone


class Encoder(nn.Module):
    """Images to embeddings of unit length. The paper's f.

    Attributes:
        backbone: (N, C, H, W) to features (N, F); what is kept and evaluated.
        head: (N, F) to (N, D); used while pre-training.
        embedding_dim: D.

    Args:
        backbone: a module with ``num_features``.
        head: ends in a layer D wide.
        embedding_dim: D, where the head contains no ``nn.Linear`` to read it from.

    Raises:
        ValueError: D is neither given nor to be read from the head.
        TypeError: the backbone is not a module.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, *, embedding_dim: int | None = None) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"the backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        self.backbone = backbone
        self.head = head
        self.embedding_dim = _width(head) if embedding_dim is None else embedding_dim

    def features(self, images: Tensor) -> Tensor:
        """The backbone's features (N, F) of images (N, C, H, W), in the precision that the backbone works in."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, C, H, W): unit length, in float32 or wider also under autocast.

        A row that is zero before normalisation stays zero.
        """
        projected: Tensor = self.head(self.features(images))
        with torch.autocast(projected.device.type, enabled=False):
            wide = projected if projected.dtype == torch.float64 else projected.float()
            return F.normalize(wide, dim=1)


def _width(head: nn.Module) -> int:
    widths = [module.out_features for module in head.modules() if isinstance(module, nn.Linear)]
    if not widths:
        raise ValueError(
            f"cannot tell how wide the embeddings of a {type(head).__name__} head are (it holds no nn.Linear): "
            "pass embedding_dim"
        )
    return widths[-1]
