"""Projection heads: from a backbone's features (N, F) to the space in which images are compared (N, D)."""

from __future__ import annotations

from torch import nn


def linear_head(in_features: int, out_features: int) -> nn.Linear:
    """One linear layer with bias, as in MoCo (Section 3.3: 2048 to 128)."""
    return nn.Linear(in_features, out_features)


def mlp_head(
    in_features: int, hidden_features: int, out_features: int, *, layers: int = 2, batch_norm: bool = False
) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Two layers without batch norm are MoCo v2's head (2048 to 2048 to 128); two layers are also SimCLR's in
    its paper, three layers with batch norm the default of SimCLR's released code.

    Args:
        in_features: F, the backbone's ``num_features``.
        hidden_features: width of every layer but the last.
        out_features: D.
        layers: number of linear layers, at least 2.
        batch_norm: batch norm after every linear layer, the last included. The linear layers then carry no
            bias, which the batch norm would take out again.

    Raises:
        ValueError: fewer than two layers.
    """
    if layers < 2:
        raise ValueError(f"an MLP head has at least 2 layers, got {layers}: use linear_head for one")
    widths = [in_features, *[hidden_features] * (layers - 1), out_features]
    modules: list[nn.Module] = []
    for position in range(layers):
        modules.append(nn.Linear(widths[position], widths[position + 1], bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(widths[position + 1]))
        if position < layers - 1:
            modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)
