"""The two models that say what a run is: ``Recipe`` (what the paper fixes) and ``RunOptions`` (how it is run here).

Neither has behaviour, and nothing below ``api`` ever sees one: rooms get plain, typed arguments.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MethodName = Literal["moco", "simclr"]
ViewName = Literal["moco-v1", "moco-v2", "simclr", "moco-v1-small", "moco-v2-small", "simclr-small"]
# The upper bounds are far beyond any use; they keep the sums of --auto within what a float holds.
Count = Annotated[int, Field(gt=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class _Strict(BaseModel):
    """Frozen, nothing guessed: an unknown field, a string for a number, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
    )


class Recipe(_Strict):
    """One setting of one method, flat, so that every field is an option. None has a default: a recipe states all."""

    method: MethodName
    """Contrastive method that makes the comparisons."""
    arch: Literal["resnet10", "resnet18", "resnet34", "resnet50"]
    """Backbone, by torchvision's name."""
    # Below eight channels, torch 2.15's CPU backward pass of a strided 1x1 convolution in channels-last layout
    # writes outside its memory (seen with AVX2; 2 to 7 channels).
    width: Annotated[float, Field(ge=0.125, le=64.0)]
    """Multiplies the channels of every layer of the backbone, stem included."""
    stem: Literal["imagenet", "medium", "small"]
    """First layers: imagenet (7x7/2, max-pool), medium (3x3/2, for 48 to 127 px), small (3x3/1, for less)."""
    head: Literal["linear", "mlp"]
    """Projection from backbone features to embeddings; left behind after training."""
    head_layers: Count
    """Linear layers in an mlp head (head linear is one layer and does not read this)."""
    head_hidden: Count | None
    """Features between the layers of an mlp head (head linear does not read this)."""
    head_batch_norm: bool
    """Batch norm after the layers of an mlp head (head linear does not read this)."""
    embedding_dim: Count
    """Length D of an embedding; the papers' 128-d."""
    temperature: Positive
    """Temperature of the instance loss L_ins (paper: tau_ins). Never changed by --auto."""
    consistency_weight: NotNegative
    """Weight of the consistency term L_con (paper: alpha); at 0 it is only monitored. Never changed by --auto."""
    consistency_temperature: Positive
    """Temperature of P and Q in the consistency term (paper: tau_con). Never changed by --auto."""
    consistency_ramp_epochs: Annotated[int, Field(ge=0, lt=2**31)]
    """Epochs over which the consistency weight rises linearly from 0 (ours); 0: the whole weight from the start."""
    consistency_direction: Literal["symmetric", "forward", "reverse"]
    """Divergence of the consistency term: symmetric (the paper's), forward KL(P||Q), or reverse KL(Q||P)."""
    detach_positive: bool
    """Whether P, made from the positive, is a constant of the consistency term (in MoCo it is one either way)."""
    queue_size: Count | None
    """Negatives in the queue (paper: K); none for simclr, whose negatives are the batch."""
    ema_keep: Annotated[float, Field(ge=0.0, le=1.0)] | None
    """Share of the old weights that the key encoder keeps at each step (MoCo: m); none for simclr."""
    exclude_own: bool
    """Whether negatives that come from the query's own image are left out (always so in simclr)."""
    batch_norm: Literal["split", "shuffle", "sync", "plain"]
    """Batch norm: split (groups of the batch), shuffle (a group is a process), sync (the joined batch), plain."""
    batch_norm_groups: Count
    """Groups that batch norm split makes of the global batch: what MoCo's GPUs did, on any number of devices."""
    views: ViewName
    """The two random views of an image: crop, colour, blur and flip as published; -small is for small images."""
    image_size: Annotated[int, Field(ge=8, lt=2**31)]
    """Side of a view, in pixels."""
    min_area: Annotated[float, Field(gt=0.0, le=1.0)]
    """Smallest crop, as a share of the image's area."""
    optimizer: Literal["sgd", "lars"]
    """SGD with momentum, or LARS (trust 0.001; batch norm and biases without adaptation and decay)."""
    lr: Positive
    """Learning rate at its highest, for this batch_size; never scaled silently."""
    optimizer_momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Momentum of the optimiser (not of the key encoder: that is ema_keep)."""
    weight_decay: NotNegative
    """L2 penalty of the optimiser."""
    schedule: Literal["cosine-epoch", "cosine-step", "steps"]
    """Learning rate over time: cosine to 0, set each epoch or each step; or steps, multiplied at drop_epochs."""
    drop_epochs: Annotated[tuple[Count, ...], Field(strict=False)]
    """Epochs at which schedule steps multiplies the learning rate (other schedules do not read this)."""
    drop_factor: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """What schedule steps multiplies the learning rate with (other schedules do not read this)."""
    warmup_epochs: Annotated[int, Field(ge=0)]
    """Epochs of linear warm-up from 0 before the schedule begins."""
    epochs: Count
    """Passes over the images."""
    batch_size: Count
    """Images per batch, over all processes."""
    accumulate: Count
    """Batches whose gradients are added up for one optimiser step; 1 for simclr, whose negatives are the batch."""


class RunOptions(_Strict):
    """How a recipe is run here; no part of a method.

    Precision and seed change the result; device, compile and views_on its rounding; the rest does not.
    """

    precision: Literal["float32", "bf16"] = "float32"
    """Arithmetic of the encoder; losses are in float32 always."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from this number."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then MPS, then the CPU."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode images and make views, for each that trains; none: one a core in all. Changes no batch."""
    views_on: Literal["worker", "device"] = "worker"
    """Where views are finished: workers make all of them, or only crop, and the device does colour, blur and flip."""
    max_bad_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the images that may be unreadable before the run stops; fewer are skipped, counted and named."""
    download: bool = False
    """Whether cifar10:PATH, cifar100:PATH and voc:PATH are fetched to PATH first, where they are missing."""
    cache: bool = False
    """Whether every image is decoded once, into a file in the run folder, and then read from there."""
    compile: bool = False
    """Whether the encoder goes through torch.compile."""
    log_every: Count = 10
    """Steps between two lines of metrics."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    probe_every: Annotated[int, Field(ge=0)] = 10
    """Epochs between two measurements of the encoder while it trains; 0: never."""


def complaints(recipe: Recipe) -> list[str]:
    """What cannot run, or would do nothing, in the combination of a recipe's fields; each with what to do."""
    rules = _method_complaints(recipe)
    if recipe.head == "mlp" and (recipe.head_layers < 2 or recipe.head_hidden is None):
        rules.append("head mlp needs two layers or more and their width: give --head-layers 2 --head-hidden 512")
    if recipe.batch_norm == "split":
        rules += _split_complaints(recipe)
    if recipe.schedule == "steps":
        if recipe.drop_factor is None:
            rules.append("schedule steps needs --drop-epochs and --drop-factor")
        if list(recipe.drop_epochs) != sorted(set(recipe.drop_epochs)):
            rules.append(f"drop_epochs must rise, not {list(recipe.drop_epochs)}")
    if recipe.warmup_epochs >= recipe.epochs and recipe.warmup_epochs:
        rules.append(
            f"a warm-up of {recipe.warmup_epochs} epochs leaves none of {recipe.epochs}: "
            f"give --warmup-epochs {recipe.epochs // 10}, or more --epochs"
        )
    return rules


def plan_complaints(recipe: Recipe) -> list[str]:
    """What would do nothing in a run that is yet to begin; each with what to do. Of one that was, it is no news."""
    rules: list[str] = []
    ramp = recipe.consistency_ramp_epochs
    if recipe.consistency_weight and ramp > recipe.epochs:
        rules.append(
            f"the consistency weight rises over {ramp} epochs, and {recipe.epochs} epochs never bring it to its value: "
            f"give --consistency-ramp-epochs {recipe.epochs} or less, or --epochs {ramp} or more"
        )
    return rules


def process_complaints(recipe: Recipe, processes: int) -> list[str]:
    """What of a recipe cannot run on a number of processes; each with what to do.

    Args:
        recipe: one that ``complaints`` has nothing against.
        processes: that train together, on all machines.
    """
    rules = []
    if recipe.batch_size % processes:
        rules.append(
            f"a batch of {recipe.batch_size} does not divide over {processes} processes: give a --batch-size that does"
        )
    if recipe.batch_norm == "split" and recipe.batch_norm_groups % processes:
        rules.append(
            f"{recipe.batch_norm_groups} batch-norm groups do not divide over {processes} processes: "
            f"give --batch-norm-groups {processes}, or another multiple of {processes} that divides the batch"
        )
    if recipe.batch_norm == "shuffle" and processes == 1:
        rules.append(
            "batch norm shuffle exchanges keys between processes, and there is one: "
            "give --batch-norm split --batch-norm-groups 8, its form on one process"
        )
    return rules


def _split_complaints(recipe: Recipe) -> list[str]:
    rules = []
    batch, groups = recipe.batch_size, recipe.batch_norm_groups
    if groups < 2:
        rules.append(
            "batch norm split needs two groups or more, one is batch norm plain: "
            "give --batch-norm-groups 8, or --batch-norm plain"
        )
    if batch % groups:
        rules.append(
            f"a batch of {batch} does not split into {groups} equal batch-norm groups: "
            "give a --batch-size or --batch-norm-groups that divides"
        )
    if batch < 2 * groups:
        rules.append("batch norm needs two images in every group: give fewer --batch-norm-groups")
    return rules


def _method_complaints(recipe: Recipe) -> list[str]:
    rules = []
    if recipe.method == "moco":
        if recipe.queue_size is None or recipe.ema_keep is None:
            rules.append("moco needs a queue and a key encoder: give --queue-size and --ema-keep")
        return rules
    if recipe.queue_size is not None or recipe.ema_keep is not None:
        rules.append("simclr has neither queue nor key encoder: leave --queue-size and --ema-keep out")
    if not recipe.exclude_own:
        rules.append("simclr never takes a row's own image as its negative: leave --exclude-own out")
    if recipe.batch_norm in ("split", "shuffle"):
        rules.append(f"batch norm {recipe.batch_norm} permutes keys, and simclr has none: give --batch-norm sync")
    if recipe.accumulate != 1:
        rules.append(
            "simclr's negatives are the batch, so adding up small ones is another loss: leave --accumulate out"
        )
    return rules
