from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from co2ssl.report import figures
from co2ssl.report.figures import knn_curve, loss_curves

Events = Sequence[Mapping[str, object]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they were when they became bytes."""
    kept: list[Figure] = []
    write = figures._data_uri

    def keep(figure: Figure) -> str:
        kept.append(figure)
        return write(figure)

    monkeypatch.setattr(figures, "_data_uri", keep)
    return kept


def points(line: Line2D) -> list[list[float]]:
    """[x, y] of each point of a curve."""
    found: list[list[float]] = np.asarray(line.get_xydata()).tolist()
    return found


def epochs(consistency: float) -> Events:
    return [
        {
            "event": "epoch",
            "epoch": e,
            "step": 9 * e,
            "instance": 6.0 / e,
            "consistency": consistency * e,
            "top1": 0.1 * e,
        }
        for e in (1, 2, 3)
    ]


def test_curves_hold_the_numbers_of_every_run_on_common_axes(drawn: list[Figure]) -> None:
    uri = loss_curves({"moco": epochs(1.0), "moco+co2": epochs(0.5)})
    assert uri is not None
    instance, consistency, accuracy = drawn[0].axes
    assert [line.get_label() for line in instance.get_lines()] == ["moco", "moco+co2"]
    assert points(instance.get_lines()[0]) == [[1, 6], [2, 3], [3, 2]]
    assert points(consistency.get_lines()[1]) == [[1, 0.5], [2, 1], [3, 1.5]]
    assert [y for _, y in points(accuracy.get_lines()[0])] == pytest.approx([10, 20, 30])
    assert consistency.get_yscale() == "linear"
    for axes in drawn[0].axes:
        assert axes.get_xlabel() == "epoch"
        assert "nats" in axes.get_ylabel() or "%" in axes.get_ylabel()
    assert len(drawn[0].legends) == 1


def test_runs_differ_in_colour_dash_and_marker(drawn: list[Figure]) -> None:
    loss_curves({"a": epochs(1.0), "b": epochs(1.0), "c": epochs(1.0)})
    lines = drawn[0].axes[0].get_lines()
    for looks in ([line.get_color() for line in lines], [line.get_linestyle() for line in lines]):
        assert len(set(looks)) == 3


def test_consistency_far_apart_is_drawn_on_a_log_axis_that_says_so(drawn: list[Figure]) -> None:
    loss_curves({"moco": epochs(3.7), "moco+co2": epochs(0.06)})
    assert drawn[0].axes[1].get_yscale() == "log"
    assert "log" in drawn[0].axes[1].get_ylabel()


def test_a_run_of_one_epoch_is_drawn_within_it(drawn: list[Figure]) -> None:
    steps = [
        {"event": "train", "epoch": step / 4, "step": step, "instance": 9.0 - step, "consistency": 0.0, "top1": 0.0}
        for step in range(4)
    ]
    loss_curves({"moco": [*steps, {"event": "epoch", "epoch": 1, "step": 4, "instance": 7.5}]})
    assert points(drawn[0].axes[0].get_lines()[0]) == [[0, 9], [0.25, 8], [0.5, 7], [0.75, 6]]


def test_values_that_are_no_numbers_are_gaps(drawn: list[Figure]) -> None:
    events = [*epochs(1.0), {"event": "epoch", "epoch": 4, "instance": float("nan")}, {"event": "epoch", "epoch": 5}]
    loss_curves({"moco": events})
    assert len(points(drawn[0].axes[0].get_lines()[0])) == 3


def test_the_learning_curve_of_the_probe(drawn: list[Figure]) -> None:
    probes = [{"event": "probe", "epoch": e, "step": 5 * e, "top1": 0.25 * e, "top5": 1.0} for e in (1, 3)]
    assert knn_curve({"moco": [*epochs(1.0), *probes], "no labels": epochs(1.0)}) is not None
    (line,) = drawn[0].axes[0].get_lines()
    assert points(line) == [[1, 25], [3, 75]]


def test_nothing_to_draw() -> None:
    assert loss_curves({}) is None
    assert loss_curves({"moco": []}) is None
    assert knn_curve({"moco": epochs(1.0)}) is None


def test_the_image_is_svg_without_references_and_the_same_every_time() -> None:
    runs = {"moco <&>": epochs(1.0)}
    uri = loss_curves(runs)
    assert uri is not None
    assert uri == loss_curves(runs)
    svg = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()
    ElementTree.fromstring(svg)
    assert not re.search(r'href="(?!#)', svg)
