"""Backbones, heads, batch-norm variants and the momentum copy."""
