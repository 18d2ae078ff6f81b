"""Where a recipe becomes objects. Everything below ``api`` gets plain, typed arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from co2ssl.config import Recipe, require_enough
from co2ssl.data.sources import Source
from co2ssl.data.views import ViewRecipe, view_recipe
from co2ssl.distributed import world_size
from co2ssl.encoders.batch_norm import convert_batch_norm
from co2ssl.encoders.encoder import Encoder
from co2ssl.encoders.heads import linear_head, mlp_head
from co2ssl.encoders.resnet import ResNet, resnet
from co2ssl.errors import UsageError
from co2ssl.losses.objective import Objective
from co2ssl.methods.method import Method
from co2ssl.methods.moco import MoCo
from co2ssl.methods.simclr import SimCLR
from co2ssl.train.schedule import learning_rate_schedule


def build_backbone(recipe: Recipe) -> ResNet:
    """The backbone with fresh weights, by torchvision's key names."""
    return resnet(recipe.arch, width=recipe.width, stem=recipe.stem)


def build_encoder(recipe: Recipe) -> Encoder:
    """Backbone, head and the recipe's kind of batch norm."""
    backbone = build_backbone(recipe)
    features = backbone.num_features
    head: nn.Module
    if recipe.head == "linear":
        head = linear_head(features, recipe.embedding_dim)
    else:
        head = mlp_head(
            features,
            recipe.head_hidden or features,
            recipe.embedding_dim,
            layers=recipe.head_layers,
            batch_norm=recipe.head_batch_norm,
        )
    encoder = Encoder(backbone, head)
    try:
        groups = recipe.batch_norm_groups if recipe.batch_norm == "split" else 1
        convert_batch_norm(encoder, recipe.batch_norm, groups=groups)
    except ValueError as error:
        raise UsageError(f"--batch-norm {recipe.batch_norm}: {error}") from None
    return encoder


def build_method(recipe: Recipe, *, seed: int) -> Method:
    """The method with its encoder and memory; the weights are a function of ``seed``."""
    torch.manual_seed(seed)
    encoder = build_encoder(recipe)
    if recipe.method == "simclr":
        return SimCLR(encoder, views=recipe.views)
    assert recipe.queue_size is not None, "complaints() refuses a moco without a queue"
    assert recipe.ema_keep is not None, "complaints() refuses a moco without a key encoder"
    return MoCo(
        encoder,
        queue_size=recipe.queue_size,
        ema_keep=recipe.ema_keep,
        permute_keys=recipe.batch_norm in ("split", "shuffle"),
        seed=seed,
        exclude_own=recipe.exclude_own,
        views=recipe.views,
    )


def build_objective(recipe: Recipe, *, steps_per_epoch: int) -> Callable[[int], Objective]:
    """Both terms with the recipe's temperatures and weight, for each optimiser step, counted from 0."""
    whole = Objective(
        temperature=recipe.temperature,
        consistency_weight=recipe.consistency_weight,
        consistency_temperature=recipe.consistency_temperature,
        direction=recipe.consistency_direction,
        detach_positive=recipe.detach_positive,
    )
    ramp = recipe.consistency_ramp_epochs * steps_per_epoch

    def at(step: int) -> Objective:
        return whole if step >= ramp else replace(whole, consistency_weight=whole.consistency_weight * step / ramp)

    return at


def build_schedule(recipe: Recipe, *, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of each optimiser step, counted from 0."""
    return learning_rate_schedule(
        recipe.schedule,
        lr=recipe.lr,
        epochs=recipe.epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=recipe.warmup_epochs,
        drop_epochs=recipe.drop_epochs,
        drop_factor=recipe.drop_factor or 1.0,
    )


def build_views(recipe: Recipe, method: Method) -> ViewRecipe:
    """The method's view recipe at the recipe's image size."""
    return view_recipe(method.views, image_size=recipe.image_size, min_area=recipe.min_area)


def evaluation_resize(image_size: int) -> int:
    """Short side that an image is brought to before the centre crop of ``image_size``, in pixels.

    256 for 224 as in every protocol of the paper, and in that ratio down to 96. Smaller images are used whole
    (ours): a CIFAR image has no margin to cut away.
    """
    return round(image_size * 256 / 224) if image_size >= 96 else image_size


def check_size(recipe: Recipe, source: Source) -> None:
    """Refuse what cannot run with this data, before anything is written.

    Raises:
        UsageError: fewer images than a batch, or a batch that does not divide over the processes.
    """
    if recipe.batch_size % world_size():
        raise UsageError(
            f"a batch of {recipe.batch_size} does not divide over {world_size()} processes: "
            "give a --batch-size that does."
        )
    require_enough(recipe, len(source))
