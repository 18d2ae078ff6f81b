"""What ``all`` can be told. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from co2ssl.evaluate.base_options import Count, EvaluationOptions, Seed


class AllOptions(EvaluationOptions):
    """Of ``all``."""

    positional: ClassVar[tuple[str, ...]] = ("data",)
    examples: ClassVar[tuple[str, ...]] = (
        "co2ssl evaluate all runs/r imagenette/                           # what these images permit, in one table",
        "co2ssl evaluate all untrained:runs/r imagenette/",
        "co2ssl evaluate all runs/r imagenet:PATH --voc VOCdevkit --full --label-list simclr --seeds 3",
    )
    # From Python also a source, or a data set: whatever ``pretrain`` takes.
    data: Any
    """Labelled images, those to learn from and those to measure on: a folder with train and val; or a VOCdevkit."""
    val: Any = None
    """Labelled images to measure on, where DATA holds only those to learn from."""
    voc: str | Path | None = None
    """A VOCdevkit folder, for svm beside the rest."""
    voc_train: str = "trainval"
    """The images of VOC that are fitted."""
    voc_test: str = "test"
    """The images of VOC that are measured on."""
    full: bool = False
    """Also linear as published: 100 epochs of SGD on random crops."""
    supervised: bool = False
    """Also the same architecture trained from fresh weights, on all the labels, 1 % and 10 %."""
    label_list: Literal["simclr"] | None = None
    """simclr: of ImageNet, SimCLR's lists for 1 % and 10 %, which are fetched, instead of seeded draws."""
    seeds: Count | None = None
    """Seeds for whatever is random: mean and standard deviation. None: 1; with few labels 3 as in the paper."""
    seed: Seed = 0
    """The first of them."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images in a batch of what SGD trains, over all processes; of fewer labelled ones, all. None: 256."""
