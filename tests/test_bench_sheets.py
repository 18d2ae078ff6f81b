"""The pictures of our views beside torchvision's: written for every recipe, with the difference that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import sheets
from co2ssl.api.views import named_views
from co2ssl.data.sources import open_source
from co2ssl.data.views import make_views
from tests.data.photographs import photograph, reference_view


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("temple", "petals", "roofs"):
        Image.fromarray(photograph(name)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def test_a_picture_for_each_recipe(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheets"
    sheets.main([str(folder), "--out", str(out), "--count", "2", "--image-size", "64"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    for recipe, line in zip(("moco", "moco-v2", "simclr"), said, strict=True):
        assert line.startswith(f"{out / recipe}.png: 4 views of 2 images, 64 pixels")
        with Image.open(out / f"{recipe}.png") as picture:
            assert np.asarray(picture).std() > 5


def test_each_view_stands_beside_its_twin_with_their_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views, source = named_views("moco-v2", image_size=48), open_source(str(folder))
    row, found = sheets.compared(source, views, index=1, seed=3)
    made = make_views(source.load(1), views, seed=3, epoch=0, index=1)
    assert [tile.title for tile in row.tiles] == [f"view {n}, {who}" for n in (1, 2) for who in ("ours", "torchvision")]
    for number, ours in enumerate(made):
        left, right = row.tiles[2 * number : 2 * number + 2]
        np.testing.assert_array_equal(left.image, ours)
        assert found[number] == pytest.approx(np.abs(left.image.astype(float) - right.image).mean())
        assert right.drawn == (f"mean absolute difference {found[number]:.2f} of 255",)
        assert left.drawn
    assert max(found) < 2

    # A reference that is off by ten levels is seen to be.
    def brighter(*given: Any) -> Any:
        return np.clip(np.asarray(reference_view(*given)).astype(int) + 10, 0, 255).astype(np.uint8)

    monkeypatch.setattr(sheets, "reference_view", brighter)
    assert min(sheets.compared(source, views, index=1, seed=3)[1]) > 5


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="the views of cmc are not pictures until they are split"):
        sheets.main([str(folder), "--out", str(tmp_path), "--recipes", "cmc"])
    with pytest.raises(SystemExit):
        sheets.main([str(folder), "--out", str(tmp_path), "--count", "0"])
    assert "--count must be at least 1" in capsys.readouterr().err
