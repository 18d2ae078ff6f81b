"""Our views beside torchvision's transforms on PIL images, with the same drawn parameters: pictures to look at.

    python -m benchmarks.data.sheets FOLDER --out SHEETS                    # moco, moco-v2 and simclr, six images each
    python -m benchmarks.data.sheets FOLDER --out SHEETS --recipes simclr --count 12 --image-size 64

Each recipe gives ``SHEETS/RECIPE.png``: a row for each image with the original and, for each view, ours with what was
drawn for it, and torchvision's with the mean absolute difference between the two below. The images are spread over the
folder; the transforms are those that the parity tests compare with.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from co2ssl.api.views import named_views
from co2ssl.data.sources import Source, open_source
from co2ssl.data.views import ViewRecipe, draw_views
from co2ssl.report.contact_sheet import Row, Tile, draw_sheet, sheet_row
from tests.data.photographs import difference, reference_view

RECIPES = ("moco", "moco-v2", "simclr")
EPOCH = 0


def compared(source: Source, views: ViewRecipe, *, index: int, seed: int) -> tuple[Row, list[float]]:
    """One image's row, and the mean absolute difference of each view in grey levels of 255.

    Args:
        source: the images.
        views: a recipe whose views the workers make whole: pixels, not what a GPU splits them into.
        index: the image's place in the source.
        seed: of the draws.
    """
    image = source.load(index)
    row = sheet_row(image, source.describe(index), views, seed=seed, epoch=EPOCH, index=index)
    drawn = draw_views(views, seed=seed, epoch=EPOCH, index=index)
    tiles: list[Tile] = []
    found: list[float] = []
    for number, ours in enumerate(row.tiles):
        theirs = np.asarray(reference_view(image, views.steps(number), drawn[number]))
        found.append(difference(ours.image, theirs))
        said = f"mean absolute difference {found[-1]:.2f} of 255"
        tiles += [
            replace(ours, title=f"{ours.title}, ours"),
            replace(ours, title=f"{ours.title}, torchvision", image=theirs, drawn=(said,)),
        ]
    return replace(row, tiles=tuple(tiles)), found


def write_sheet(recipe: str, source: Source, out: Path, *, images: int, image_size: int | None, seed: int) -> str:
    """The picture of a recipe; what it shows, in one line."""
    views = named_views(recipe, image_size=image_size)
    if views.split is not None:
        raise SystemExit(f"the views of {recipe} are not pictures until they are split: there is nothing to compare")
    places = np.unique(np.linspace(0, len(source) - 1, images).astype(int)).tolist()
    rows, found = zip(*(compared(source, views, index=index, seed=seed) for index in places), strict=True)
    differences = [one for those in found for one in those]
    mean, largest = float(np.mean(differences)), max(differences)
    subtitle = (
        f"{views.image_size} pixels, seed {seed}; difference {mean:.2f} levels in the mean, {largest:.2f} at most"
    )
    sheet = draw_sheet(rows, title=f"{recipe}: ours, and torchvision's on PIL images", subtitle=subtitle)
    path = out / f"{recipe}.png"
    sheet.save(path)
    return f"{path}: {len(differences)} views of {len(rows)} images, {subtitle}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="FOLDER", help="images, as for co2ssl pretrain")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="names from co2ssl methods")
    parser.add_argument("--count", type=int, default=6, help="images in each picture")
    parser.add_argument("--image-size", type=int, help="side of a view in pixels; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error("--count must be at least 1")
    given.out.mkdir(parents=True, exist_ok=True)
    source = open_source(given.images)
    for recipe in given.recipes:
        how = {"images": given.count, "image_size": given.image_size, "seed": given.seed}
        print(write_sheet(recipe, source, given.out, **how), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
