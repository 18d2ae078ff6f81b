from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from co2ssl.evaluate.features import Features
from co2ssl.report.neighbours import THUMBNAIL_SIDE, choose_queries, neighbour_grid, thumbnail
from tests.evaluate.fakes import Images

CLASSES = ("ant", "bee", "cat")


def spread_out(source: Images, angles: list[float]) -> Features:
    """Features on the unit circle, so that the nearest is the one with the nearest angle."""
    angle = torch.tensor(angles)
    labels = None if source.labels is None else torch.from_numpy(source.labels)
    return Features(
        features=torch.stack([angle.cos(), angle.sin()], dim=1),
        labels=labels,
        index=torch.arange(len(angles)),
        classes=source.classes,
        source=source.name,
    )


def test_the_grid_shows_the_nearest_first_and_says_which_class() -> None:
    train = Images([0, 1, 2, 0], CLASSES, name="train")
    # The query's classes are numbered otherwise: "cat" is 0 here and 2 there.
    val = Images([0, 1], ("cat", "ant"), name="val", seed=1)
    bank, queries = spread_out(train, [0.0, 0.3, 1.0, 1.2]), spread_out(val, [0.9, 0.1])
    grid = neighbour_grid("moco", bank, queries, bank_source=train, query_source=val, places=[1, 0], count=2)
    assert grid.name == "moco"
    (ant, near_ant), (cat, near_cat) = grid.rows
    assert (ant.label, ant.caption, ant.same_class) == ("ant", "val/1.png", None)
    assert [(image.caption, image.same_class) for image in near_ant] == [("train/0.png", True), ("train/1.png", False)]
    assert [(image.caption, image.same_class) for image in near_cat] == [("train/2.png", True), ("train/3.png", False)]
    assert near_ant[0].similarity == pytest.approx(np.cos(0.1), abs=1e-6)
    assert cat.label == "cat"


def test_a_query_from_the_bank_is_not_its_own_neighbour() -> None:
    source = Images(None, None, num_images=4)
    features = spread_out(source, [0.0, 0.1, 0.25, 2.0])
    grid = neighbour_grid("x", features, features, bank_source=source, query_source=source, places=[1], count=2)
    ((query, found),) = grid.rows
    assert query.caption == "images/1.png"
    assert [image.caption for image in found] == ["images/0.png", "images/2.png"]
    assert found[0].same_class is None


def test_more_neighbours_than_images_are_all_of_them() -> None:
    source = Images([0, 1, 2], CLASSES)
    features = spread_out(source, [0.0, 0.1, 0.2])
    grid = neighbour_grid("x", features, features, bank_source=source, query_source=source, places=[0], count=8)
    assert len(grid.rows[0][1]) == 2


def test_queries_are_seeded_and_of_different_classes() -> None:
    source = Images([0, 1, 2] * 10, CLASSES)
    features = spread_out(source, [0.1] * 30)
    chosen = choose_queries(features, count=3, seed=0)
    assert sorted(place % 3 for place in chosen) == [0, 1, 2]
    assert chosen == choose_queries(features, count=3, seed=0)
    assert len({tuple(choose_queries(features, count=3, seed=seed)) for seed in range(5)}) > 1
    assert len(choose_queries(features, count=8)) == 3
    assert len(choose_queries(spread_out(Images(None, None, num_images=9), [0.1] * 9), count=4)) == 4


def test_a_thumbnail_is_the_image_made_small() -> None:
    source = Images([0], ("ant",), size=200, noise=0)
    data = thumbnail(source, 0).data_uri.removeprefix("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert np.abs(np.asarray(image).astype(int) - source.load(0)[0, 0].astype(int)).max() <= 4
