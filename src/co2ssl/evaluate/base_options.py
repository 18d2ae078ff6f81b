"""What every protocol can be told. Needs no torch.

Fields that name images go by place, in the order of ``positional``; a field's doc line is its help.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0.0)]
Layer = Literal["res1", "res2", "res3", "res4", "res5", "pooled"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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
    leaves: ClassVar[str] = "Features are extracted once and kept in the run folder, where the result goes too."
    """What the help page says of what is left behind."""
    no_use: ClassVar[tuple[str, ...]] = ()
    """Fields that every protocol has and this one has no use for: not on the command line, and refused by ``check``."""

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
    max_bad_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of each set of images that may be unreadable; fewer are left out, more end the measurement."""
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

    def changed(self, **words: str) -> list[str]:
        """Fields that are not as usual, for the name of a file: ``lr=(10.0, 3.0)`` under ``"lr"`` is ``lr-10-3``.

        Args:
            words: what each field is called there; empty: its value says enough.
        """
        named: list[str] = []
        for field, word in words.items():
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                values = value if isinstance(value, tuple) else (value,)
                shown = (f"{one:g}" if isinstance(one, float) else str(one) for one in values)
                named.append("-".join([word, *shown] if word else shown))
        return named


class PairOptions(EvaluationOptions):
    """Of a protocol that learns from labelled images and measures on others."""

    positional: ClassVar[tuple[str, ...]] = ("train", "val")
    # From Python also a source, or a data set: whatever ``pretrain`` takes.
    train: Any
    """Labelled images to learn the classes from: a folder of class folders; cifar10:PATH; or demo."""
    val: Any
    """Labelled images to measure on."""
