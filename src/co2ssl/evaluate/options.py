"""What each protocol can be told: one frozen model each, for the command line and for ``evaluate()``. Needs no torch.

Fields that name images go by place, in the order of ``positional``; a field's doc line is its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from co2ssl.errors import UsageError
from co2ssl.evaluate.all_options import AllOptions
from co2ssl.evaluate.base_options import Count, EvaluationOptions, Layer, PairOptions, Positive, Seed
from co2ssl.evaluate.label_share import DRAW, DRAWS, PUBLISHED, share_of

SGD_ONLY = ("lr", "epochs", "batch_size")
"""Options of the published linear protocol that its fast form has no use for."""

NOT_FROM_FEATURES = ("cache", "feature_dtype")
"""Options of features that a protocol which trains the whole network has no use for."""

SVM_NAMING = (("pipeline",), ("year",), ("layer",), ("train_split", "test_split"), ("difficult",))
"""Options of the SVM protocol that tell its results apart. Of a group all are named where one is not the usual: "val"
alone could be either split."""


class KnnOptions(PairOptions):
    """Of ``knn``."""

    examples = (
        "co2ssl evaluate knn runs/r imagenette/train imagenette/val",
        "co2ssl evaluate knn untrained:runs/r imagenette/train imagenette/val",
        "co2ssl evaluate knn weights:moco.safetensors imagenet/train imagenet/val --arch resnet50 --out results/moco",
    )
    neighbours: Count | None = None
    """How many vote (the papers' k). None: 200 as in InsDisc, fewer where classes are small."""
    temperature: Positive = 0.07
    """A neighbour of cosine s votes with weight exp(s / temperature); 0.07 as in InsDisc."""
    layer: Layer = "pooled"
    """Features: pooled (after global average pooling), or a stage's maps, pooled to about 9,000 numbers."""

    @property
    def result_name(self) -> str:
        """The layer, k and temperature, where they are not the usual ones."""
        return "-".join(self.changed(layer="", neighbours="k", temperature="temperature"))


class LinearOptions(PairOptions):
    """Of ``linear``."""

    examples = (
        "co2ssl evaluate linear runs/r imagenet/train imagenet/val           # the paper's, both learning rates",
        "co2ssl evaluate linear runs/r imagenet/train imagenet/val --fast    # the same question, sooner",
        "co2ssl evaluate linear runs/r imagenet/train imagenet/val --layer res4",
        "co2ssl evaluate linear torchvision:resnet50 imagenet/train imagenet/val --out results/supervised",
    )
    fast: bool = False
    """L-BFGS on cached features of centre crops instead of SGD on random crops: the same question in less time."""
    layer: Layer = "pooled"
    """Features: pooled (after global average pooling), or a stage's maps, pooled to about 9,000 numbers."""
    lr: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] | None = None
    """Learning rates, each of a classifier of its own. None: 30 (MoCo) and 15 (CO2, recalled); of maps 0.01 (VISSL)."""
    epochs: Count = 100
    """Passes over the training images; the learning rate falls to a tenth after 60 and 80 hundredths of them."""
    batch_size: Count | None = None
    """Images in a batch, over all processes. None: 256, or all of them where they are fewer."""
    seed: Seed = 0
    """Of crops, order and first weights; with --fast, of the tenth on which the penalty is chosen."""

    def check(self) -> None:
        """Refuse what only the other form uses.

        Raises:
            UsageError: ``fast`` beside an option of SGD.
        """
        unused = [f"--{name.replace('_', '-')}" for name in SGD_ONLY if name in self.model_fields_set]
        if self.fast and unused:
            raise UsageError(f"leave {', '.join(unused)} out: with --fast nothing is trained by SGD.")

    @property
    def result_name(self) -> str:
        """``fast``; layer, learning rates, epochs, batch and seed, where they are not the usual ones."""
        told = self.changed(layer="", lr="lr", epochs="epochs", batch_size="batch-size", seed="seed")
        return "-".join(["fast"] * self.fast + told)


class LabelledOptions(PairOptions):
    """Of a protocol that trains the whole network on labels, several times."""

    leaves: ClassVar[str] = "Whole networks are trained, so no features are kept; the result goes to the run folder."
    no_use: ClassVar[tuple[str, ...]] = NOT_FROM_FEATURES
    naming: ClassVar[tuple[str, ...]]
    labels: str | None = None
    """Share of the training images whose labels are used, the same number of every class: 1%, 10%, or another."""
    label_list: str | Path | None = None
    """A file that names these images, one a line; simclr, SimCLR's list; draw. None: of ImageNet simclr, else draw."""
    draws: Count | None = None
    """Trainings, each with a draw and a seed of its own; their mean is reported. None: 3, of all the labels 1."""
    epochs: Count
    """Passes over the labelled images."""
    weight_decay: Annotated[float, Field(ge=0.0)]
    """Of every parameter."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images in a batch, over all processes. None: 256, or all the labelled ones where they are fewer."""
    seed: Seed = 0
    """Of the first draw and training; the next has the next one."""
    out: str | None = None
    """Folder for evaluation/. None: the run folder; of a backbone without one nothing is kept."""

    def check(self) -> None:
        """Refuse what is no share, and what only frozen features use.

        Raises:
            UsageError: such an option.
        """
        if self.labels is not None:
            share_of(self.labels)
        if self.share is None and str(self.label_list) == DRAW:
            raise UsageError(f"--label-list {DRAW} draws a share of the images: say which with --labels.")
        unused = [f"--{name.replace('_', '-')}" for name in self.no_use if name in self.model_fields_set]
        if unused:
            raise UsageError(f"leave {', '.join(unused)} out: the network is trained, and no features are kept.")

    @property
    def share(self) -> str | None:
        """The share of the images that is asked for; None: all, or whatever the list says."""
        return self.labels

    @property
    def result_name(self) -> str:
        """The share, and the list where there is one; what training is told, where it is not the usual."""
        share = [] if self.share is None else [self.share.replace("%", "percent")]
        listed = [] if self.label_list is None else [Path(self.label_list).name.removesuffix(".gz")]
        told = self.changed(**{name: name.replace("_", "-") for name in self.naming})
        usual = 1 if self.share is None and self.label_list is None else DRAWS
        draws = [] if self.draws in (None, usual) else [f"draws-{self.draws}"]
        return "-".join([*share, *(name.removesuffix(".txt") for name in listed), *told, *draws])


class FinetuneOptions(LabelledOptions):
    """Of ``finetune``."""

    naming = ("epochs", "backbone_lr", "head_lr", "weight_decay", "batch_size", "seed")
    examples = (
        "co2ssl evaluate finetune runs/r imagenette/train imagenette/val --labels 10% --batch-size 64",
        "co2ssl evaluate finetune runs/r imagenet/train imagenet/val --labels 1%",
    )
    epochs: Count = 20
    """Passes over the labelled images; the learning rates fall to a fifth after 60 and 80 hundredths of them."""
    backbone_lr: Annotated[float, Field(ge=0.0)] = 0.01
    """Learning rate of the backbone, for a batch of 256."""
    head_lr: Positive = 1.0
    """Learning rate of the new classifier, for a batch of 256."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """As for MoCo; for MoCo v2 the paper has 1e-4."""

    @property
    def share(self) -> str | None:
        """1% where neither a share nor a list of one's own is given."""
        own_list = self.label_list is not None and str(self.label_list) not in (PUBLISHED, DRAW)
        return self.labels if self.labels is not None or own_list else "1%"


class SupervisedOptions(LabelledOptions):
    """Of ``supervised``."""

    naming = ("epochs", "lr", "weight_decay", "batch_size", "seed")
    examples = (
        "co2ssl evaluate supervised runs/r imagenette/train imagenette/val    # the run's architecture, fresh weights",
        "co2ssl evaluate supervised untrained:torchvision:resnet50 imagenet/train imagenet/val --out results/r50",
        "co2ssl evaluate supervised runs/r imagenette/train imagenette/val --labels 10%",
    )
    epochs: Count = 90
    """Passes over the labelled images; the learning rate falls to a tenth after each third of them."""
    lr: Positive = 0.1
    """Learning rate, for a batch of 256."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    """Of every parameter."""


class SvmOptions(EvaluationOptions):
    """Of ``svm``."""

    positional: ClassVar[tuple[str, ...]] = ("voc",)
    examples = (
        "co2ssl evaluate svm runs/r VOCdevkit",
        "co2ssl evaluate svm torchvision:resnet50 VOCdevkit --pipeline pcl --out results/supervised",
    )
    voc: str | Path
    """The VOCdevkit folder, or the one that holds it."""
    pipeline: Literal["vissl", "goyal", "pcl"] = "vissl"
    """By whose code: vissl and goyal choose each class's cost by cross-validation, from two ranges; pcl has C = 0.5."""
    year: str = "2007"
    """Of the devkit."""
    train_split: str = "trainval"
    """The images that are fitted."""
    test_split: str = "test"
    """The images that are measured on."""
    difficult: Literal["left-out", "negative-in-training", "negative"] = "left-out"
    """What an image is to a class that it shows in "difficult" objects only."""
    layer: Layer = "pooled"
    """Features: pooled (after global average pooling), or a stage's maps, pooled to about 9,000 numbers."""
    seed: Seed = 0
    """Of the order in which the solver visits the images."""
    jobs: Count | None = None
    """Processes that fit. None: one a core."""

    @property
    def result_name(self) -> str:
        """Whatever changes the number, where it is not the usual: two such measurements keep a file each."""
        usual = type(self).model_fields
        changed: list[str] = []
        for group in SVM_NAMING:
            values = [getattr(self, name) for name in group]
            if values != [usual[name].default for name in group]:
                changed += values
        return "-".join([*changed, *self.changed(seed="seed")])


OPTIONS: dict[str, type[EvaluationOptions]] = {
    "knn": KnnOptions,
    "linear": LinearOptions,
    "svm": SvmOptions,
    "finetune": FinetuneOptions,
    "supervised": SupervisedOptions,
    "all": AllOptions,
}
"""The options of every protocol in ``PROTOCOLS``."""
