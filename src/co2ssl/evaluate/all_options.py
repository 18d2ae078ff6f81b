"""What ``all`` can be told. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from co2ssl.errors import UsageError
from co2ssl.evaluate.base_options import Count, EvaluationOptions, Seed
from co2ssl.evaluate.label_share import DRAW, PUBLISHED


class AllOptions(EvaluationOptions):
    """Of ``all``."""

    positional: ClassVar[tuple[str, ...]] = ("data",)
    examples: ClassVar[tuple[str, ...]] = (
        "co2ssl evaluate all runs/r imagenette/                           # what these images permit, in one table",
        "co2ssl evaluate all untrained:runs/r imagenette/",
        "co2ssl evaluate all runs/r imagenet:PATH --voc VOCdevkit --full --seeds 3",
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
    label_list: str | Path | None = None
    """simclr, SimCLR's lists; a folder that holds them; or draw, with seeds. None: of ImageNet simclr, else draw."""
    seeds: Count | None = None
    """Seeds for whatever is random: mean and standard deviation. None: 1; with few labels 3 as in the paper."""
    seed: Seed = 0
    """The first of them."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images in a batch of what SGD trains, over all processes; of fewer labelled ones, all. None: 256."""

    def check(self) -> None:
        """Refuse a single list, which is of one share.

        Raises:
            UsageError: it is none of the words, and no folder.
        """
        if self.label_list is None or str(self.label_list) in (PUBLISHED, DRAW) or Path(self.label_list).is_dir():
            return
        raise UsageError(
            f"--label-list {self.label_list} is neither {PUBLISHED} nor {DRAW} nor a folder: give one that holds "
            "SimCLR's 1percent.txt and 10percent.txt; a list of your own is measured by finetune"
        )
