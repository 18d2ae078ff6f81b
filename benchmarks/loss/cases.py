"""What is compared: inputs of each case, and every contender as a function that runs forward and backward once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses import Contrast, contrastive_loss, pair_contrast
from co2ssl.losses.engine import Implementation
from co2ssl.losses.sweep import block_negatives

Run: TypeAlias = Callable[[], object]

WIDTH = 128
# MoCo's temperatures and weight, as recalled from the paper.
WARM, COOL, ALPHA = 0.07, 0.04, 10.0


@dataclass(frozen=True)
class Sizes:
    """N rows, K negatives in the table, J draws a row (0: the table itself)."""

    rows: int
    negatives: int
    draws: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def unit(rows: int, sizes: Sizes, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, WIDTH, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    return vectors.to(device=sizes.device, dtype=sizes.dtype)


def textbook_loss(query: Tensor, positive: Tensor, logits: Tensor, of_positive: Tensor) -> Tensor:
    """The issue's textbook, from scores."""
    pair = (query * positive).sum(1, keepdim=True)
    zeros = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    instance = F.cross_entropy(torch.cat([pair, logits], 1) / WARM, zeros)
    log_q, log_p = F.log_softmax(logits / COOL, 1), F.log_softmax(of_positive / COOL, 1)
    forward = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    reverse = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return instance + ALPHA / 2 * (forward + reverse)


def run_ours(contrast: Contrast, leaf: Tensor, implementation: Implementation) -> None:
    leaf.grad = None
    loss = contrastive_loss(
        contrast,
        temperature=WARM,
        consistency_weight=ALPHA,
        consistency_temperature=COOL,
        implementation=implementation,
    )
    torch.autograd.backward(loss.total)


def queue(sizes: Sizes) -> dict[str, Run]:
    """MoCo: a constant queue."""
    query = unit(sizes.rows, sizes, 1).requires_grad_()
    positive, negatives = unit(sizes.rows, sizes, 2), unit(sizes.negatives, sizes, 3)
    contrast = Contrast(query=query, positive=positive, negatives=negatives)

    def textbook() -> None:
        query.grad = None
        torch.autograd.backward(textbook_loss(query, positive, query @ negatives.T, positive @ negatives.T))

    runs: dict[str, Run] = {"textbook": textbook, "blocked": lambda: run_ours(contrast, query, "blocked")}
    if sizes.device == "cpu":
        runs["bare products"] = bare_products(query.detach(), positive, negatives)
    else:
        runs["compiled textbook"] = torch.compile(textbook)
        runs["triton"] = lambda: run_ours(contrast, query, "triton")
    return runs


def bare_products(query: Tensor, positive: Tensor, negatives: Tensor) -> Run:
    """The six products of the one pass in the same blocks, and nothing else: what they multiply is there before."""
    stacked = torch.cat([query, positive])
    width = block_negatives(len(query))
    weights = torch.rand(4 * len(query), width)
    scores, out = torch.empty(2 * len(query), width), torch.zeros(4 * len(query), WIDTH)

    def run() -> None:
        for block in torch.split(negatives, width):
            torch.mm(stacked, block.T, out=scores[:, : len(block)])
            out.addmm_(weights[:, : len(block)], block)

    return run


def simclr(sizes: Sizes) -> dict[str, Run]:
    """In-batch negatives: ``rows`` crops, each against all crops of other images."""
    embeddings = unit(sizes.rows, sizes, 1).requires_grad_()
    half = sizes.rows // 2

    def textbook() -> None:
        embeddings.grad = None
        partner = torch.cat([embeddings[half:], embeddings[:half]])
        own = torch.eye(half, dtype=torch.bool, device=embeddings.device).repeat(2, 2)
        logits = embeddings @ embeddings.T
        # The lowest finite number, not -inf: its differences and products stay numbers.
        logits = logits.masked_fill(own, -1e4)
        of_partner = (partner @ embeddings.T).masked_fill(own, -1e4)
        torch.autograd.backward(textbook_loss(embeddings, partner, logits, of_partner))

    def blocked() -> None:
        run_ours(pair_contrast(embeddings[:half], embeddings[half:]), embeddings, "blocked")

    return {"textbook": textbook, "blocked": blocked}


def draws(sizes: Sizes) -> dict[str, Run]:
    """InsDisc: each row draws from a bank."""
    query = unit(sizes.rows, sizes, 1).requires_grad_()
    positive, bank = unit(sizes.rows, sizes, 2), unit(sizes.negatives, sizes, 3)
    generator = torch.Generator().manual_seed(4)
    index = torch.randint(0, sizes.negatives, (sizes.rows, sizes.draws), generator=generator).to(sizes.device)
    contrast = Contrast(query=query, positive=positive, negatives=bank, negative_index=index)

    def gather_then_einsum() -> None:
        query.grad = None
        own = bank[index]  # (N, J, D)
        scores = torch.einsum("nd,njd->nj", query, own), torch.einsum("nd,njd->nj", positive, own)
        torch.autograd.backward(textbook_loss(query, positive, *scores))

    return {"textbook": gather_then_einsum, "blocked": lambda: run_ours(contrast, query, "blocked")}


KINDS: dict[str, Callable[[Sizes], dict[str, Run]]] = {"queue": queue, "simclr": simclr, "draws": draws}
