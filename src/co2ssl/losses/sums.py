"""What a sweep adds up over the negatives, and how value and gradient follow from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from co2ssl.losses.options import NO_NEGATIVE
from co2ssl.losses.settings import Inputs, Needs, Results, Settings


@dataclass(frozen=True)
class Slots:
    """Where each kind of weight stands in the stacked weights, as row ranges; None where it is not needed."""

    query: slice | None  # e^b
    query_delta: slice | None  # e^b delta
    positive: slice | None  # e^a
    positive_delta: slice | None  # e^a delta
    instance: slice | None  # e^l
    joined: slice | None  # e^l of the entries that join the numerator
    uniform: slice | None  # 1
    summed: int  # rows in all
    multiplied: int  # rows that are multiplied with the negatives (the first ones)


def make_slots(num_rows: int, num_positives: int, inputs: Inputs, settings: Settings, needs: Needs) -> Slots:
    """Lay out the weights that these settings and gradients need."""
    consistent, instance = bool(settings.consistency_weight), bool(settings.instance_weight)
    through = needs.positive and not settings.detach_positive
    many = num_rows * num_positives
    value_only = not needs
    # name: (rows, wanted, multiplied)
    wanted = {
        "query": (num_rows, consistent, not value_only),
        "positive": (many, consistent, not value_only),
        "instance": (num_rows, instance, needs.query),
        "query_delta": (many, consistent and (value_only or (needs.query and settings.reverse_weight > 0)), True),
        "positive_delta": (many, consistent and (value_only or (through and settings.forward_weight > 0)), True),
        "joined": (num_rows, instance and inputs.also_positive is not None, needs.query),
        "uniform": (num_rows, instance and settings.label_smoothing > 0, needs.query),
    }
    place: dict[str, slice | None] = dict.fromkeys(wanted)
    end = multiplied = 0
    for in_product in (True, False):
        for name, (rows, is_wanted, is_multiplied) in wanted.items():
            if is_wanted and (is_multiplied and not value_only) == in_product:
                place[name] = slice(end, end + rows)
                end += rows
        if in_product:
            multiplied = end
    return Slots(**place, summed=end, multiplied=multiplied)


@dataclass(frozen=True)
class Swept:
    """A tile of N rows after the last block. Logits of the instance loss are scores over its temperature."""

    query: Tensor  # (N, D)
    positive: Tensor  # (M, N, D)
    slots: Slots
    sums: Tensor  # (slots.summed,): weights added up
    products: Tensor  # (slots.multiplied, D): weights times negatives
    shift: Tensor  # ((1 + M) N,) or (N,): subtracted from b and a before the exponential
    instance_shift: Tensor  # (N,): subtracted from l
    joined_shift: Tensor  # (N,): subtracted from l of the entries that join the numerator
    pair: Tensor  # (M, N): logits of the pairs
    logit_sum: Tensor  # (N,): sum of l, where the label is smoothed

    def sum_of(self, slot: slice | None) -> Tensor:
        """Weights of one kind, added up: (N,) or (M N,)."""
        assert slot is not None
        return self.sums[slot]

    def product_of(self, slot: slice | None) -> Tensor:
        """Weights of one kind times the negatives: (N, D) or (M N, D)."""
        assert slot is not None
        return self.products[slot]


def finish(swept: Swept, settings: Settings, needs: Needs, results: Results, rows: slice) -> None:
    """Write values and gradients of a tile into ``rows`` of the results.

    Raises:
        ValueError: a row without any negative (on the CPU; its loss is NaN elsewhere).
    """
    total = torch.zeros_like(swept.query[:, 0])
    if settings.instance_weight:
        _require_negatives(swept.sum_of(swept.slots.instance), rows)
        total = total + _finish_instance(swept, settings, results, rows)
    if settings.consistency_weight:
        _require_negatives(swept.sum_of(swept.slots.query), rows)
        value = _finish_consistency(swept, settings, needs, results, rows)
        results.consistency[rows] = value
        total = total + settings.consistency_weight * value
    results.total[rows] = total


def _require_negatives(normaliser: Tensor, rows: slice) -> None:
    if normaliser.device.type != "cpu":
        return
    empty = (normaliser == 0).nonzero()[:, 0]
    if empty.numel():
        raise ValueError(NO_NEGATIVE.format(row=rows.start + int(empty[0])))


def _finish_instance(swept: Swept, settings: Settings, results: Results, rows: slice) -> Tensor:
    slots, pair, shift = swept.slots, swept.pair, swept.instance_shift
    num_positives = pair.shape[0]
    of_entries = swept.sum_of(slots.instance)
    # A row without negatives has no loss: NaN, not the 0 that its positive alone would give.
    log_entries = (shift + of_entries.log()).masked_fill(of_entries == 0, torch.nan)
    normaliser = torch.logaddexp(pair, log_entries)  # (M, N)
    numerator = pair
    log_joined = None
    if slots.joined is not None:
        log_joined = swept.joined_shift + swept.sum_of(slots.joined).log()
        numerator = torch.logaddexp(pair, log_joined)
    loss = normaliser - numerator
    to_pairs = (pair - normaliser).exp() - (pair - numerator).exp()
    share = settings.label_smoothing
    if share:
        classes = 1 + swept.sum_of(slots.uniform)
        loss = loss + share * (pair - (pair + swept.logit_sum) / classes)
        to_pairs = to_pairs + share * (1 - 1 / classes)
    scale = settings.scale / settings.temperature
    if results.grad_query is not None:
        back = (shift - normaliser).exp().mean(dim=0)[:, None] * swept.product_of(slots.instance)
        if log_joined is not None:
            # Below 1 where something joins; where nothing does, its product is zero and the shift far below.
            of_joined = (swept.joined_shift - numerator).exp().mean(dim=0)
            back = back - of_joined[:, None] * swept.product_of(slots.joined)
        if share:
            back = back - (share / classes)[:, None] * swept.product_of(slots.uniform)
        back = back + (to_pairs[:, :, None] * swept.positive).mean(dim=0)
        results.grad_query[rows] += scale * back
    if results.grad_positive is not None:
        to_positive = to_pairs[:, :, None] * swept.query * (scale / num_positives)  # (M, N, D)
        results.grad_positive[rows] += to_positive.transpose(0, 1)
    value = loss.mean(dim=0)
    results.instance[rows] = value
    return value


def _finish_consistency(swept: Swept, settings: Settings, needs: Needs, results: Results, rows: slice) -> Tensor:
    """With mu the means of the negatives under P and Q: E[delta] = (q - p).mu / t for scores linear in the product."""
    slots = swept.slots
    num_positives, num_rows, width = swept.positive.shape
    forward, reverse = settings.forward_weight, settings.reverse_weight
    scale = settings.scale / settings.consistency_temperature
    of_query = swept.sum_of(slots.query)  # (N,)
    of_positive = swept.sum_of(slots.positive).view(num_positives, num_rows)
    shift = swept.shift.view(1 + num_positives, num_rows)
    gap = shift[0] + of_query.log() - shift[1:] - of_positive.log()  # ln Z_Q - ln Z_P
    if not needs:
        mean_query = swept.sum_of(slots.query_delta).view(num_positives, num_rows) / of_query
        mean_positive = swept.sum_of(slots.positive_delta).view(num_positives, num_rows) / of_positive
        rows_of_pair = reverse * mean_query - forward * mean_positive
        return (rows_of_pair + (forward - reverse) * gap).mean(dim=0)
    center_query = swept.product_of(slots.query) / of_query[:, None]  # (N, D), the mean under Q
    center_positive = swept.product_of(slots.positive).view(num_positives, num_rows, width) / of_positive[:, :, None]
    apart = (swept.query - swept.positive) * scale  # (M, N, D)
    value = (apart * (reverse * center_query - forward * center_positive)).sum(dim=2)
    if forward != reverse:
        value = value + (forward - reverse) * gap
    alpha = settings.consistency_weight * scale
    if results.grad_query is not None:
        back = forward * (center_query - center_positive)
        if slots.query_delta is not None:
            weighted = swept.product_of(slots.query_delta).view(num_positives, num_rows, width) / of_query[:, None]
            mean_query = (apart * center_query).sum(dim=2, keepdim=True)
            back = back + reverse * (weighted - mean_query * center_query)
        results.grad_query[rows] += alpha * back.mean(dim=0)
    if results.grad_positive is not None and not settings.detach_positive:
        back = reverse * (center_positive - center_query)
        if slots.positive_delta is not None:
            weighted = swept.product_of(slots.positive_delta).view(num_positives, num_rows, width)
            mean_positive = (apart * center_positive).sum(dim=2, keepdim=True)
            back = back - forward * (weighted / of_positive[:, :, None] - mean_positive * center_positive)
        results.grad_positive[rows] += (alpha / num_positives) * back.transpose(0, 1)
    return value.mean(dim=0)
