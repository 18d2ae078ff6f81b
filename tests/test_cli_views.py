from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from co2ssl.api.views import contact_sheet, named_views
from co2ssl.cli import main
from co2ssl.data import hashing
from co2ssl.data.sources import FolderSource
from co2ssl.data.views import VIEW_RECIPES, make_views
from co2ssl.report.captions import caption
from co2ssl.report.contact_sheet import sheet_row
from tests.images import write_images


def test_the_rows_are_what_a_run_trains_on(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 12)
    sheet = contact_sheet(
        tmp_path / "images", recipe="moco-small-32+co2", out=tmp_path / "sheet.png", images=3, seed=5, epoch=2
    )
    source = FolderSource(str(tmp_path / "images"))
    first = hashing.permutation(5, epoch=2, length=12)[:3].tolist()
    assert [Path(shown).name for shown in sheet.shown] == [Path(source.describe(index)).name for index in first]
    row = sheet_row(source.load(first[0]), "x", sheet.recipe, seed=5, epoch=2, index=first[0])
    made = make_views(source.load(first[0]), sheet.recipe, seed=5, epoch=2, index=first[0])
    for tile, view in zip(row.tiles, made, strict=True):
        np.testing.assert_array_equal(tile.image, view)


@pytest.mark.parametrize("recipe", sorted(VIEW_RECIPES))
def test_every_view_recipe_has_a_sheet(recipe: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 2)
    out = tmp_path / "sheet.png"
    assert main(["views", str(tmp_path / "images"), "--recipe", recipe, "--images", "1", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("RGB")).std() > 5


def test_captions_name_what_was_drawn() -> None:
    jitter = VIEW_RECIPES["moco-v2"].operations[1]
    assert caption(jitter, [1, 1.2, 0.8, 1.1, -0.05, 0], height=8, width=8) == (
        "jitter: brightness 1.20, contrast 0.80, saturation 1.10, hue -0.05"
    )
    assert caption(jitter, [0, 1.2, 0.8, 1.1, -0.05, 0], height=8, width=8) == ""


def test_a_recipe_brings_its_size_and_smallest_crop() -> None:
    views = named_views("moco-small-64+co2")
    assert views.image_size == 64
    assert named_views("moco-small-64", image_size=48).image_size == 48
    assert named_views("insdisc").name == "insdisc"


def test_unreadable_images_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 3)
    (tmp_path / "images/001.png").write_bytes(b"no image")
    out = tmp_path / "sheet.png"
    assert main(["views", str(tmp_path / "images"), "--recipe", "moco-small-32", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "skipped:" in said.err
    assert "001.png" in said.err
    assert "2 images" in said.out


def test_images_of_odd_shapes_and_kinds_and_a_bad_one_among_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    write_images(folder, 1)
    shapes = {"line.png": (1, 300), "column.png": (300, 1), "dot.png": (1, 1), "long.png": (9, 700)}
    for name, shape in shapes.items():
        Image.fromarray(np.full((*shape, 3), 99, dtype=np.uint8)).save(folder / name)
    Image.fromarray(np.full((20, 30), 99, dtype=np.uint8)).save(folder / "grey.png")
    Image.fromarray(np.full((20, 30, 4), 99, dtype=np.uint8)).save(folder / "transparent.png")
    Image.fromarray(np.full((20, 30), 9999, dtype=np.uint16)).save(folder / "deep.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    out = tmp_path / "sheet.png"
    words = ["--recipe", "moco-v2", "--image-size", "24", "--images", "20", "--out", str(out)]
    assert main(["views", str(folder), *words]) == 0
    said = capsys.readouterr()
    assert f"{out}: 8 images, views moco-v2" in said.out
    assert [line.startswith("skipped: ") and "bad.jpg" in line for line in said.err.splitlines()] == [True]
    with Image.open(out) as picture:
        assert picture.height > 8 * 24


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--recipe", "moco-v3"], 2, "moco-v2"),
        (["--out", "sheet.jpg"], 2, "ends in .png"),
        (["--images", "0"], 2, "at least 1 image"),
        (["--out", "nowhere/sheet.png"], 2, "no folder nowhere"),
    ],
)
def test_wrong_usage(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", 2)
    assert main(["views", str(tmp_path / "images"), *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_folder_of_bad_images_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"no image")
    assert main(["views", str(tmp_path / "images"), "--out", str(tmp_path / "sheet.png")]) == 1
    assert "none of 1 images" in capsys.readouterr().err


def test_without_a_name_it_goes_here_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", 2)
    monkeypatch.chdir(tmp_path)
    assert main(["views", "images", "--recipe", "moco-small-32", "--images", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/views.png: 1 image, ")
    assert (tmp_path / "views.png").is_file()
