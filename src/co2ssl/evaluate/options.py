"""What each protocol can be told: one frozen model each, for the command line and for ``evaluate()``. Needs no torch.

Fields that name images go by place, in the order of ``positional``; a field's doc line is its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from co2ssl.errors import UsageError

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0.0)]
Layer = Literal["res1", "res2", "res3", "res4", "res5", "pooled"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

SGD_ONLY = ("lr", "epochs", "batch_size")
"""Options of the published linear protocol that its fast form has no use for."""

SVM_NAMING = ("pipeline", "year", "layer", "train_split", "test_split", "difficult")
"""Options of the SVM protocol that tell its results apart."""


class EvaluationOptions(BaseModel):
    """What every protocol can be told: which backbone, how its features are made, and what is kept."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
    )
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that name images, in the order in which they are given."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Command lines for the help page."""

    arch: str | None = None
    """Architecture of weights:PATH, by torchvision's name (resnet50, ...); every other backbone knows its own."""
    weights: str = "IMAGENET1K_V1"
    """Which of torchvision's weights torchvision:NAME takes; untrained:torchvision:NAME has none."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the centre crop, in pixels. None: a run's own, and 224 for any other backbone."""
    precision: Literal["float32", "bf16"] | None = None
    """Arithmetic of the backbone. None: a run's own, and float32 for any other backbone."""
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Numbers that features are kept as; float16 is half the file."""
    cache: bool = True
    """Whether features are kept on the disk, and those that lie there are used."""
    out: str | None = None
    """Folder for features/ and evaluation/. None: the run folder; of a backbone without one nothing is kept."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes CUDA, then MPS, then the CPU."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode images. None: one a core."""
    quiet: bool = False
    """No progress."""

    def check(self) -> None:
        """Refuse a combination of options that makes no sense.

        Raises:
            UsageError: there is one; here, none.
        """

    @property
    def result_name(self) -> str:
        """What tells this measurement from others of its protocol, in the name of its file; empty: nothing."""
        return ""


class PairOptions(EvaluationOptions):
    """Of a protocol that learns from labelled images and measures on others."""

    positional: ClassVar[tuple[str, ...]] = ("train", "val")
    # From Python also a source, or a data set: whatever ``pretrain`` takes.
    train: Any
    """Labelled images to learn the classes from: a folder of class folders; cifar10:PATH; or demo."""
    val: Any
    """Labelled images to measure on."""


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
    batch_size: Count = 256
    """Images in a batch, over all processes."""
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
        """``fast``, and the layer where it is not the usual one."""
        return "-".join(["fast"] * self.fast + [self.layer] * (self.layer != "pooled"))


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
        return "-".join(getattr(self, name) for name in SVM_NAMING if getattr(self, name) != usual[name].default)


OPTIONS: dict[str, type[EvaluationOptions]] = {"knn": KnnOptions, "linear": LinearOptions, "svm": SvmOptions}
"""The options of every protocol in ``PROTOCOLS``."""
