"""``contact_sheet``: the picture to look at before a run: images, their views, and what was drawn for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from co2ssl.api.images import Images, open_images
from co2ssl.config import DEFAULT_RECIPE, load_recipe, recipe_names
from co2ssl.config.messages import near_match
from co2ssl.data import hashing
from co2ssl.data.pixels import Image
from co2ssl.data.sources import BadImage, DataError, Source
from co2ssl.data.views import VIEW_RECIPES, ViewRecipe, view_recipe
from co2ssl.errors import UsageError
from co2ssl.report.contact_sheet import draw_sheet, sheet_row
from co2ssl.train.checkpoint import write_atomically

CO2_SUFFIX = "+co2"

MAX_BAD = 100
"""Unreadable images after which no more are tried."""


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """What was drawn.

    Attributes:
        path: of the PNG.
        recipe: how the views were made.
        shown: which images, first to last.
        skipped: images that could not be read, and why.
    """

    path: Path
    recipe: ViewRecipe
    shown: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def contact_sheet(
    data: Images,
    *,
    recipe: str = DEFAULT_RECIPE,
    out: str | Path = "views.png",
    images: int = 8,
    seed: int = 0,
    epoch: int = 0,
    image_size: int | None = None,
    min_area: float | None = None,
    split: str = "train",
) -> ContactSheet:
    """A PNG with a row for each image: the original, then its views, with what was drawn below them.

    The images are the first ones of that epoch, with exactly the views that a run with this seed trains on.

    Args:
        data: as for ``pretrain``.
        recipe: a name from ``co2ssl methods`` or the path of a YAML file, for the views and sizes of that recipe; or a
            name of :data:`co2ssl.data.views.VIEW_RECIPES`.
        out: where to write it; must end in ".png". A file that is there is replaced.
        images: how many.
        seed: of the run.
        epoch: epochs finished before.
        image_size: side of a view in pixels; None for the recipe's.
        min_area: smallest crop as a share of the image; None for the recipe's.
        split: "train" or "val", where ``data`` has both.

    Raises:
        UsageError: no such recipe, or a value that makes no sense.
        UserError: no images there, none of the first that can be read, or a file that cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: the contact sheet is a PNG; give a name that ends in .png")
    if images < 1 or epoch < 0:
        raise UsageError(
            f"{images} images of epoch {epoch} cannot be shown; give at least 1 image, and an epoch from 0"
        )
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}; make it first, or give another --out")
    views = named_views(recipe, image_size=image_size, min_area=min_area)
    source = open_images(data, split)
    skipped: list[tuple[str, str]] = []
    rows = [
        sheet_row(image, source.describe(index), views, seed=seed, epoch=epoch, index=index)
        for index, image in _first_images(source, images, seed=seed, epoch=epoch, skipped=skipped)
    ]
    sheet = draw_sheet(rows, title=_title(recipe, views), subtitle=_subtitle(views, source, seed=seed, epoch=epoch))
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    return ContactSheet(path=path, recipe=views, shown=tuple(row.name for row in rows), skipped=tuple(skipped))


def named_views(name: str, *, image_size: int | None = None, min_area: float | None = None) -> ViewRecipe:
    """The views of a recipe, or a view recipe; a recipe goes first where both have the name.

    Args:
        name: of either, or the path of a recipe's YAML file.
        image_size: side of a view in pixels; None for the recipe's.
        min_area: smallest crop as a share of the image; None for the recipe's.

    Raises:
        UsageError: neither is called that; near names are given.
    """
    base = name.removesuffix(CO2_SUFFIX)
    if base in recipe_names() or base.endswith((".yaml", ".yml")):
        found = load_recipe(name, check=False).recipe
        return view_recipe(
            found.views,
            image_size=found.image_size if image_size is None else image_size,
            min_area=found.min_area if min_area is None else min_area,
        )
    if name in VIEW_RECIPES:
        return view_recipe(name, image_size=image_size, min_area=min_area)
    known = [*recipe_names(), *(view for view in VIEW_RECIPES if view not in recipe_names())]
    raise UsageError(f"unknown recipe {name!r}{near_match(base, known)} Known: {', '.join(known)}.")


def _first_images(
    source: Source, count: int, *, seed: int, epoch: int, skipped: list[tuple[str, str]]
) -> Iterator[tuple[int, Image]]:
    """The first images of an epoch that can be read, each with its place in the source."""
    found = 0
    for index in hashing.permutation(seed, epoch=epoch, length=len(source)).tolist():
        if found == count or len(skipped) == MAX_BAD:
            break
        try:
            image = source.load(index)
        except BadImage as error:
            skipped.append((source.describe(index), error.reason))
            continue
        found += 1
        yield index, image
    if not found:
        which, why = skipped[-1]
        raise DataError(f"none of {len(skipped)} images of {source.name} can be read; the last one: {which} ({why})")


def _title(recipe: str, views: ViewRecipe) -> str:
    return recipe if recipe == views.name else f"{recipe} (views: {views.name})"


def _subtitle(views: ViewRecipe, source: Source, *, seed: int, epoch: int) -> str:
    sizes = " and ".join(f"{size} x {size}" for size in dict.fromkeys(views.sizes))
    many = "1 view" if views.num_views == 1 else f"{views.num_views} views"
    return f"{many} of {sizes} pixels; seed {seed}, epoch {epoch}; images of {source.name}"
