from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from co2ssl.data.pixels import Image
from co2ssl.data.views import VIEW_RECIPES, draw_views, view_recipe
from co2ssl.report import contact_sheet
from co2ssl.report.contact_sheet import Row, Tile, displayable, draw_sheet, sheet_row
from co2ssl.report.figures import COLOURS

MARGIN, GAP, LINE = contact_sheet._MARGIN, contact_sheet._GAP, contact_sheet._LINE
FIRST_ROW = MARGIN + contact_sheet._TITLE_SIZE + LINE + 2 * GAP
PICTURE = FIRST_ROW + LINE + 4
FIRST_VIEW = MARGIN + contact_sheet._ORIGINAL + GAP


def noise(height: int, width: int, seed: int = 0) -> Image:
    pixels: Image = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return pixels


def tile(side: int = 32, **changed: Any) -> Tile:
    values: dict[str, Any] = {
        "title": "view 1",
        "image": noise(side, side),
        "drawn": (),
        "colour": "#ff0000",
        **changed,
    }
    return Tile(**values)


def row(*tiles: Tile, **changed: Any) -> Row:
    values: dict[str, Any] = {"name": "a.png", "original": noise(64, 64), "shared": (), "boxes": (), **changed}
    return Row(tiles=tiles, **values)


def drawn(*rows: Row, title: str = "moco-v2", subtitle: str = "2 views") -> Image:
    return np.asarray(draw_sheet(rows, title=title, subtitle=subtitle))


def changed_pixels(one: Image, other: Image) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row, first and last column that differ."""
    rows, columns = np.nonzero((one != other).any(axis=2))
    return (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))


def test_what_was_drawn_stands_below_its_view() -> None:
    plain = drawn(row(tile(), tile()))
    labelled = drawn(row(tile(), tile(drawn=("crop of 50 %: 20 x 20 at (3, 4)", "flipped"))))
    assert plain.shape == labelled.shape
    (top, bottom), (left, right) = changed_pixels(plain, labelled)
    # The second of two views, each 32 pixels enlarged sevenfold.
    second = FIRST_VIEW + 224 + GAP
    assert top > PICTURE + 224
    assert bottom < PICTURE + 224 + 6 + 2 * LINE
    assert second <= left
    assert right < second + 224


def test_long_labels_are_wrapped_within_their_column() -> None:
    words = "jitter: " + ", ".join(f"{name} 1.23" for name in ("brightness", "contrast", "saturation", "hue") * 3)
    plain, labelled = drawn(row(tile(), tile())), drawn(row(tile(drawn=(words,)), tile()))
    height = min(len(plain), len(labelled))
    (top, bottom), (left, right) = changed_pixels(plain[:height], labelled[:height])
    assert bottom - top > LINE
    assert left >= FIRST_VIEW
    assert right < FIRST_VIEW + 224
    # The sheet grows where the labels need it.
    many = drawn(row(tile(drawn=("flipped",) * 12), tile()))
    assert len(many) > len(plain)


def test_views_keep_their_pixels() -> None:
    small, large = noise(30, 30, 1), noise(230, 230, 2)
    sheet = drawn(row(tile(image=small), tile(image=large)))
    enlarged = np.kron(small, np.ones((7, 7, 1), dtype=np.uint8))
    np.testing.assert_array_equal(sheet[PICTURE : PICTURE + 210, FIRST_VIEW : FIRST_VIEW + 210], enlarged)
    second = FIRST_VIEW + 210 + GAP
    np.testing.assert_array_equal(sheet[PICTURE : PICTURE + 230, second : second + 230], large)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (37, 53), (1000, 30), (256, 256)])
def test_originals_of_any_shape_fit_their_column(size: tuple[int, int]) -> None:
    recipe = view_recipe("moco-v2", image_size=33)
    made = sheet_row(noise(*size), "odd.png", recipe, seed=0, epoch=0, index=0)
    assert [one.image.shape for one in made.tiles] == [(33, 33, 3)] * 2
    for (top, left, height, width), _ in made.boxes:
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]
    sheet = drawn(made)
    alone = drawn(replace(made, original=np.full((*size, 3), 255, dtype=np.uint8), boxes=()))
    (top, bottom), (left, right) = changed_pixels(sheet, alone)
    assert top >= PICTURE
    assert bottom < PICTURE + 256
    assert left >= MARGIN
    assert right < MARGIN + 256
    assert sheet.shape[1] >= FIRST_VIEW + 2 * 33 * 6 + GAP + MARGIN


def test_crops_are_marked_on_the_original_in_their_views_colour() -> None:
    grey = np.full((64, 128, 3), 128, dtype=np.uint8)
    boxes = (((0, 0, 32, 64), "#ff0000"), ((16, 32, 48, 96), "#0000ff"))
    sheet = drawn(row(tile(), original=grey, boxes=boxes))
    # The original is enlarged twofold; the second box is drawn over the first.
    original = sheet[PICTURE : PICTURE + 128, MARGIN : MARGIN + 256]
    assert original[0, 0].tolist() == original[62, 10].tolist() == [255, 0, 0]
    assert original[32, 64].tolist() == original[127, 255].tolist() == [0, 0, 255]
    assert original[20, 20].tolist() == [128, 128, 128]


def test_rows_stand_below_each_other_and_long_titles_have_room() -> None:
    one, two = row(tile()), row(tile(image=noise(32, 32, 5)))
    single, double = drawn(one), drawn(one, two)
    step = len(double) - len(single)
    np.testing.assert_array_equal(single[: PICTURE + 224], double[: PICTURE + 224])
    second = double[PICTURE + step : PICTURE + step + 224, FIRST_VIEW : FIRST_VIEW + 224]
    np.testing.assert_array_equal(second, np.kron(two.tiles[0].image, np.ones((7, 7, 1), dtype=np.uint8)))
    wide = drawn(one, title="recipe " * 40)
    assert wide.shape[1] > single.shape[1]
    assert (wide[:, -MARGIN:] == 255).all()


def test_only_the_end_of_a_path_is_shown() -> None:
    short = drawn(row(tile(), name="cats/1.png"))
    np.testing.assert_array_equal(short, drawn(row(tile(), name="/a/long/way/to/cats/1.png")))
    assert (short != drawn(row(tile(), name="dogs/1.png"))).any()


# A recipe of each family: how many views, their titles, and what all share.
@pytest.mark.parametrize(
    ("name", "count", "titles", "shared"),
    [
        ("moco-v1", 2, {"view 1", "view 2"}, 0),
        ("simclr", 2, {"view 1", "view 2"}, 0),
        ("insdisc", 1, {"view 1"}, 0),
        ("rotation", 4, {"view 1", "view 4"}, 0),
        ("jigsaw", 9, {"view 1", "view 9"}, 1),
        ("pirl", 10, {"view 1", "view 10"}, 1),
        ("cmc", 2, {"lightness", "colour"}, 0),
    ],
)
def test_a_recipe_of_each_family(name: str, count: int, titles: set[str], shared: int) -> None:
    recipe = VIEW_RECIPES[name]
    made = sheet_row(noise(300, 280), "x.png", recipe, seed=1, epoch=0, index=4)
    assert len(made.tiles) == count
    assert titles <= {one.title for one in made.tiles}
    assert bool(made.shared) == bool(shared)
    if shared:
        first = recipe.kind(recipe.num_views - 1)[1] if recipe.more else 0
        assert made.shared[0].startswith(f"views {first + 1} to ")
    assert all(one.image.dtype == np.uint8 and one.image.shape[2] == 3 for one in made.tiles)
    assert {one.colour for one in made.tiles} <= set(COLOURS)
    sheet = drawn(made)
    assert sheet.shape[0] > FIRST_ROW
    assert draw_views(recipe, seed=1, epoch=0, index=4)


def test_views_of_lightness_and_colour_can_be_looked_at() -> None:
    ramp = torch.linspace(-1, 1, 16).reshape(1, 4, 4)
    grey = displayable(ramp)
    assert grey.shape == (4, 4, 3)
    assert (grey[0, 0].tolist(), grey[3, 3].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert (grey[..., 0] == grey[..., 2]).all()
    neutral, red = displayable(torch.zeros(2, 4, 4)), displayable(torch.full((2, 4, 4), 0.5))
    assert np.ptp(neutral[0, 0].astype(int)) < 4
    assert red[0, 0, 0] > int(red[0, 0, 1]) + 50
    stretched = displayable(torch.tensor([[[-3.0, 1.0]], [[0.0, 0.0]], [[0.0, 5.0]]]))
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert (displayable(torch.full((3, 2, 2), 0.7)) == 0).all()
    whole = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    np.testing.assert_array_equal(displayable(whole), whole.permute(1, 2, 0).numpy())


def test_the_sheet_is_a_picture() -> None:
    sheet = draw_sheet([row(tile())], title="t", subtitle="s")
    assert isinstance(sheet, PilImage.Image)
    assert sheet.mode == "RGB"
