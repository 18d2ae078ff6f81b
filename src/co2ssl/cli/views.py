"""``co2ssl views``: look at what a recipe does to your images."""

from __future__ import annotations

from typing import Any, Literal

from co2ssl.cli.options import Option, parse
from co2ssl.config import DEFAULT_RECIPE


def run(words: list[str]) -> None:
    """Write the contact sheet; say where it is, and which images could not be read."""
    values: dict[str, Any] = parse(
        words,
        {
            "data": Option(
                kind=str,
                help="Images, as for pretrain: a folder, nested to any depth; cifar10:PATH, ...; or demo.",
                positional=True,
            ),
            "recipe": Option(
                kind=str,
                help="A name from `co2ssl methods` or a YAML file, for its views, image size and smallest crop; "
                "or the name of a view recipe (moco-v1, insdisc, cmc, jigsaw, pirl, ...).",
                default=DEFAULT_RECIPE,
            ),
            "out": Option(kind=str, help="The PNG to write; one that is there is replaced.", default="views.png"),
            "images": Option(kind=int, help="How many images, a row each: the first ones of the epoch.", default=8),
            "seed": Option(kind=int, help="Of the run: the views are those it would train on.", default=0),
            "epoch": Option(kind=int, help="Epochs finished before.", default=0),
            "image_size": Option(kind=int | None, help="Side of a view, in pixels. None: the recipe's.", default=None),
            "min_area": Option(
                kind=float | None, help="Smallest crop, as a share of the image. None: the recipe's.", default=None
            ),
            "split": Option(kind=Literal["train", "val"], help="Which part, where DATA has both.", default="train"),
        },
        command="views",
        description="Write a picture of what a recipe does to your images: a row for each image, the original with the "
        "crops marked, then its views, with everything that was drawn below them.",
        examples=[
            "co2ssl views photos/ --recipe moco-v2",
            "co2ssl views photos/ --recipe simclr-small-64+co2 --images 16 --out sheet.png",
            "co2ssl views photos/ --recipe moco-v2 --seed 3 --epoch 10 --image-size 96",
            "co2ssl views photos/ --recipe jigsaw",
        ],
    )
    import os
    import sys

    from co2ssl.api.views import contact_sheet

    sheet = contact_sheet(values.pop("data"), **values)
    for which, why in sheet.skipped:
        print(f"skipped: {which}: {why}", file=sys.stderr)
    many = "1 image" if len(sheet.shown) == 1 else f"{len(sheet.shown)} images"
    print(f"{os.path.abspath(sheet.path)}: {many}, views {sheet.recipe.name}")
