"""The contact sheet: images, the views that a recipe makes of them, and what was drawn for each, as one picture."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import torch
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

from co2ssl.data.operations import RandomResizedCrop
from co2ssl.data.pixels import Image
from co2ssl.data.views import ViewRecipe, draw_views, make_views
from co2ssl.report.captions import caption
from co2ssl.report.figures import COLOURS

Box = tuple[int, int, int, int]

# Pixels. Views keep their own pixels, enlarged by a whole factor where they are small.
_MARGIN, _GAP, _LINE, _ORIGINAL = 24, 14, 15, 256
_TEXT_SIZE, _TITLE_SIZE = 11, 19
_INK, _PALE, _PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"
_VIEWS_IN_A_LINE = 10


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One view.

    Attributes:
        title: which view.
        image: (H, W, 3) uint8.
        drawn: what was drawn for it alone, an operation a line.
        colour: of its title, and of its crop on the original.
    """

    title: str
    image: Image
    drawn: tuple[str, ...]
    colour: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image with its views.

    Attributes:
        name: of the image.
        original: (H, W, 3) uint8.
        shared: what was drawn for several views together.
        boxes: (top, left, height, width) of crops in the original, with a colour each.
        tiles: the views.
    """

    name: str
    original: Image
    shared: tuple[str, ...]
    boxes: tuple[tuple[Box, str], ...]
    tiles: tuple[Tile, ...]


def sheet_row(image: Image, name: str, recipe: ViewRecipe, *, seed: int, epoch: int, index: int) -> Row:
    """The views that a run with this seed has of image ``index`` in this epoch, and what was drawn for them.

    Args:
        image: RGB (H, W, 3) uint8.
        name: what to call it.
        recipe: how views are made.
        seed: of the run.
        epoch: epochs finished before.
        index: the image's place in the data set.
    """
    drawn = draw_views(recipe, seed=seed, epoch=epoch, index=index)
    made = make_views(image, recipe, seed=seed, epoch=epoch, index=index)
    shared: list[str] = []
    boxes: list[tuple[Box, str]] = []
    own: list[tuple[str, ...]] = []
    for view, rows in enumerate(drawn):
        kind, first = recipe.kind(view)
        lines = _captions(image, recipe, view, rows)
        count = len(kind.shared)
        if view == first and count:
            shared += [f"views {first + 1} to {first + kind.num_views}:", *lines[:count]]
        own.append(tuple(line for line in lines[count:] if line))
        step = recipe.steps(view)[0]
        if isinstance(step, RandomResizedCrop) and (view == first or not count):
            boxes.append((step.box(image.shape[0], image.shape[1], rows[0]), _colour(view)))
    return Row(
        name=name,
        original=image,
        shared=tuple(line for line in shared if line),
        boxes=tuple(boxes),
        tiles=_tiles(recipe, made, own),
    )


def draw_sheet(rows: Sequence[Row], *, title: str, subtitle: str) -> PilImage.Image:
    """The rows below each other, under a title."""
    columns = _columns(rows)
    pictures = [_draw_row(row, columns) for row in rows]
    width = max([2 * _MARGIN + picture.width for picture in pictures] + [_width_of(title, subtitle)])
    top = _MARGIN + _TITLE_SIZE + _LINE + 2 * _GAP
    height = top + sum(picture.height + 2 * _GAP for picture in pictures) + _MARGIN - 2 * _GAP
    sheet = PilImage.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(_TITLE_SIZE, bold=True))
    pen.text((_MARGIN, _MARGIN + _TITLE_SIZE + 8), subtitle, fill=_PALE, font=_font(_TEXT_SIZE + 1))
    for number, picture in enumerate(pictures):
        if number:
            pen.line((_MARGIN, top - _GAP, width - _MARGIN, top - _GAP), fill="#e2e2e2")
        sheet.paste(picture, (_MARGIN, top))
        top += picture.height + 2 * _GAP
    return sheet


def displayable(view: Tensor) -> Image:
    """A view as something to look at, (H, W, 3) uint8.

    Args:
        view: (3, H, W) uint8; or floating point: (1, H, W) lightness from -1 to 1 is shown as grey, (2, H, W) the axes
            a and b from -1 to 1 as colours of one lightness, (3, H, W) from its lowest value to its highest.
    """
    pixels = view.permute(1, 2, 0).cpu().numpy()
    if view.dtype == torch.uint8:
        return np.ascontiguousarray(pixels)
    if len(view) == 1:
        return np.repeat(np.clip(127.5 * (pixels + 1), 0, 255).astype(np.uint8), 3, axis=2)
    if len(view) == 2:
        lab = np.concatenate([np.full_like(pixels[..., :1], 65.0), 100 * pixels], axis=2).astype(np.float32)
        return np.clip(255 * np.asarray(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)), 0, 255).astype(np.uint8)
    low, high = float(pixels.min()), float(pixels.max())
    stretched: Image = (255 * (pixels - low) / max(high - low, 1e-6)).astype(np.uint8)
    return stretched


def _captions(image: Image, recipe: ViewRecipe, view: int, drawn: Sequence[Sequence[float]]) -> list[str]:
    """A line for each step, "" where it does nothing; sizes are those of the image as each step meets it."""
    lines = []
    for step, row in zip(recipe.steps(view), drawn, strict=True):
        lines.append(caption(step, row, height=image.shape[0], width=image.shape[1]))
        image = step.apply(image, row)
    return lines


def _tiles(recipe: ViewRecipe, made: Sequence[Image], own: Sequence[tuple[str, ...]]) -> tuple[Tile, ...]:
    batch = tuple(torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1)[None] for view in made)
    views = recipe.on_device(batch)
    each = len(views) // len(made)
    return tuple(
        Tile(
            title={1: "lightness", 2: "colour"}.get(view.shape[1], f"view {number + 1}"),
            image=displayable(view[0]),
            drawn=own[number // each] if number % each == 0 else (),
            colour=_colour(number // each),
        )
        for number, view in enumerate(views)
    )


def _columns(rows: Sequence[Row]) -> list[int]:
    """Widths in pixels: the original's column, then one for each view in a line."""
    tiles = [row.tiles for row in rows]
    count = len(tiles[0])
    line = count if count <= _VIEWS_IN_A_LINE else math.ceil(math.sqrt(count))
    widths = [0] * line
    for views in tiles:
        for number, tile in enumerate(views):
            widths[number % line] = max(widths[number % line], tile.image.shape[1] * _zoom(tile, count))
    return [_ORIGINAL, *widths]


def _zoom(tile: Tile, count: int) -> int:
    """The more views, the smaller."""
    wanted = 224 if count <= 4 else 128 if count <= _VIEWS_IN_A_LINE else 96
    return max(1, wanted // int(tile.image.shape[1]))


def _draw_row(row: Row, columns: Sequence[int]) -> PilImage.Image:
    cells = [_draw_original(row)]
    cells += [_draw_tile(tile, columns[1 + i % (len(columns) - 1)], len(row.tiles)) for i, tile in enumerate(row.tiles)]
    per_line = len(columns) - 1
    lines = [cells[1 + start : 1 + start + per_line] for start in range(0, len(row.tiles), per_line)]
    heights = [max(cell.height for cell in line) for line in lines]
    height = max(cells[0].height, sum(heights) + _GAP * (len(lines) - 1))
    picture = PilImage.new("RGB", (sum(columns) + _GAP * per_line, height), _PAPER)
    picture.paste(cells[0], (0, 0))
    top = 0
    for line, tall in zip(lines, heights, strict=True):
        left = columns[0] + _GAP
        for cell, wide in zip(line, columns[1:], strict=False):
            picture.paste(cell, (left, top))
            left += wide + _GAP
        top += tall + _GAP
    return picture


def _draw_original(row: Row) -> PilImage.Image:
    height, width = row.original.shape[:2]
    scale = min(_ORIGINAL / width, _ORIGINAL / height)
    if scale > 1:
        scale = int(scale)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kind = PilImage.Resampling.NEAREST if scale > 1 else PilImage.Resampling.LANCZOS
    shown = PilImage.fromarray(row.original).resize(size, kind)
    pen = ImageDraw.Draw(shown)
    for (top, left, tall, wide), colour in row.boxes:
        corners = tuple(round(place * scale) for place in (left, top, left + wide, top + tall))
        right, bottom = max(corners[0], corners[2] - 1), max(corners[1], corners[3] - 1)
        pen.rectangle((corners[0], corners[1], right, bottom), outline=colour, width=2)
    lines = [_short(row.name), f"{width} x {height} pixels", *row.shared]
    return _cell("original", _INK, shown, lines, _ORIGINAL)


def _draw_tile(tile: Tile, width: int, count: int) -> PilImage.Image:
    zoom = _zoom(tile, count)
    shown = PilImage.fromarray(tile.image)
    shown = shown.resize((shown.width * zoom, shown.height * zoom), PilImage.Resampling.NEAREST)
    return _cell(tile.title, tile.colour, shown, tile.drawn, width)


def _cell(title: str, colour: str, shown: PilImage.Image, lines: Sequence[str], width: int) -> PilImage.Image:
    """A title, a picture below it and lines of text below that, wrapped at ``width`` pixels."""
    wrapped = [part for line in lines for part in _wrapped(line, width)]
    height = _LINE + 4 + shown.height + (6 + _LINE * len(wrapped) if wrapped else 0)
    cell = PilImage.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(cell)
    pen.text((0, 0), title, fill=colour, font=_font(_TEXT_SIZE, bold=True))
    cell.paste(shown, (0, _LINE + 4))
    for number, line in enumerate(wrapped):
        pen.text((0, _LINE + 4 + shown.height + 6 + number * _LINE), line, fill=_INK, font=_font(_TEXT_SIZE))
    return cell


def _wrapped(text: str, width: int) -> list[str]:
    """Lines no longer than ``width`` pixels, broken between words; continued ones are indented."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if lines[-1].strip() and _font(_TEXT_SIZE).getlength(longer) > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = longer
    return lines


def _short(name: str) -> str:
    """The end of a path: the file and the folder it lies in."""
    return os.path.join(*Path(name).parts[-2:]) if os.sep in name else name


def _width_of(title: str, subtitle: str) -> int:
    lengths = _font(_TITLE_SIZE, bold=True).getlength(title), _font(_TEXT_SIZE + 1).getlength(subtitle)
    return 2 * _MARGIN + math.ceil(max(lengths))


def _colour(view: int) -> str:
    return COLOURS[view % len(COLOURS)]


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings a font with letters of most scripts; Pillow's own has Latin only.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(mpl.get_data_path(), "fonts", "ttf", name), size)
