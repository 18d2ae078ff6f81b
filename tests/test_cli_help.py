"""Help pages, the boxes and types on them, and what a mistyped option is told."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from co2ssl.cli import main
from co2ssl.cli.near import nearest, typing_errors
from co2ssl.cli.options import Option, metavar, parse
from co2ssl.cli.recipe_options import BOXES, RUN_BOX, recipe_and_run_options
from co2ssl.config import Recipe, RunOptions
from co2ssl.errors import UsageError
from co2ssl.evaluate.options import OPTIONS

OPTIONS_TO_PARSE = {
    "size": Option(kind=int | None, help="Of it.", default=3),
    "names": Option(kind=tuple[str, ...] | None, help="Its names.", default=None, group="more"),
    "drop_epochs": Option(kind=tuple[int, ...], help="When.", default=(), group="more"),
    "quick": Option(kind=bool, help="Whether.", default=False, group="more"),
}


def help_page(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def boxes_of(page: str) -> dict[str, str]:
    """Title of each box of a help page, drawn or dashed, to what stands in it, in one line."""
    found = re.split(r"(?:╭─|\n) ((?:\w+ )?(?:options|arguments)) +(?:─+╮|\n -{9,})", page)
    return {
        title: " ".join(text.replace("│", " ").split()) for title, text in zip(found[1::2], found[2::2], strict=True)
    }


@pytest.mark.parametrize("command", ["pretrain", "doctor"])
def test_a_recipe_and_a_run_have_boxes_of_their_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = boxes_of(help_page([command, "--recipe", "simclr"], capsys))
    for title, option in (("loss", "temperature"), ("memory", "ema-keep"), ("training", "epochs"), (RUN_BOX, "seed")):
        assert f"--{option} " in boxes[f"{title} options"]
    for title in BOXES.values():
        assert "defaults are those of simclr." in boxes[f"{title} options"]
    assert "--epochs" not in boxes["options"]
    assert "--recipe STR or none" in boxes["options"]
    assert "--queue-size INT or none" in boxes["memory options"]
    assert "--drop-epochs INT ... Epochs" in boxes["training options"]
    fitted = boxes_of(help_page([command], capsys))
    assert "those of moco-v2+co2, which --auto fits" in fitted["network options"]


def test_every_field_of_a_recipe_stands_in_one_box() -> None:
    options, boxes = recipe_and_run_options("")
    assert list(options) == [*Recipe.model_fields, *RunOptions.model_fields]
    assert {option.group for option in options.values()} == set(boxes)


@pytest.mark.parametrize("words", [["pretrain"], ["doctor"], ["views"], *(["evaluate", name] for name in OPTIONS)])
def test_no_help_page_shows_the_types_of_a_program(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = help_page(words, capsys)
    assert "{None" not in page
    assert "(default: None)" not in page
    assert "[FLOAT [" not in page
    assert "(default: )" not in page


def test_what_trains_whole_networks_does_not_speak_of_features(capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("finetune", "supervised"):
        page = help_page(["evaluate", protocol], capsys)
        assert "--cache" not in page
        assert "--feature-dtype" not in page
        assert "features/" not in page
        assert "no features are kept" in page
    page = help_page(["evaluate", "knn"], capsys)
    assert "--cache" in page
    assert "Features are extracted once and kept" in page


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (int, "INT"),
        (Annotated[float, Field(gt=0)] | None, "FLOAT or none"),
        (Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)], "INT ..."),
        (tuple[float, ...] | None, "FLOAT ... or none"),
        (str | Path | None, "STR or none"),
        (Literal["a", "b"], "{a,b}"),
        (Literal["a", "b"] | None, "{a,b} or none"),
        (bool, None),
    ],
)
def test_types_in_words(kind: object, shown: str | None) -> None:
    assert metavar(kind) == shown


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", (3, None, (), False)),
        ("--size none --names a none --quick", (None, ("a", "none"), (), True)),
        ("--size=none --names none --drop-epochs 1 2", (None, None, (1, 2), False)),
        ("--drop_epochs=7 --no-quick --size 5", (5, None, (7,), False)),
    ],
)
def test_values_of_options_in_boxes(words: str, values: tuple[object, ...]) -> None:
    groups = {"more": "More of them."}
    found = parse(words.split(), OPTIONS_TO_PARSE, command="x", description="x", examples=[], groups=groups)
    assert tuple(found.items()) == tuple(zip(OPTIONS_TO_PARSE, values, strict=True))


@pytest.mark.parametrize(
    ("command", "option", "near"),
    [
        ("pretrain", "--epoch", "did you mean --epochs, --drop-epochs or --warmup-epochs?"),
        ("pretrain", "--epoch=3", "did you mean --epochs, --drop-epochs or --warmup-epochs?"),
        ("pretrain", "--bacth_size", "did you mean --batch-size?"),
        ("doctor", "--num-workers", "did you mean --workers?"),
        ("views", "--no-image-size", "did you mean --image-size?"),
        ("pretrain", "--no-cahce", "did you mean --no-cache?"),
        ("demo", "--frobnicate", "--frobnicate. co2ssl demo --help lists"),
    ],
)
def test_a_mistyped_option(command: str, option: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, *(["photos"] if command != "demo" else []), option]
    assert main(words) == 2
    text = capsys.readouterr().err
    assert near in text
    assert text.count("\n") == 1
    # Whoever asks for help gets it.
    assert "usage:" in help_page(words, capsys)


def test_an_option_after_none_is_still_an_option() -> None:
    with pytest.raises(UsageError, match=r"no option --nmaes; did you mean --names\?"):
        parse(["--size", "none", "--nmaes", "a"], OPTIONS_TO_PARSE, command="x", description="x", examples=[])


def slow_typing_errors(one: str, other: str) -> int:
    """By the definition."""
    if not one or not other:
        return len(one) + len(other)
    costs = [
        slow_typing_errors(one[:-1], other) + 1,
        slow_typing_errors(one, other[:-1]) + 1,
        slow_typing_errors(one[:-1], other[:-1]) + (one[-1] != other[-1]),
    ]
    if one[-2:] == other[-2:][::-1] and len(one) > 1 and len(other) > 1:
        costs.append(slow_typing_errors(one[:-2], other[:-2]) + 1)
    return min(costs)


def test_typing_errors_are_counted() -> None:
    words = ["", "a", "ab", "ba", "abc", "acb", "bca", "cabb", "abab"]
    for one, other in itertools.product(words, words):
        assert typing_errors(one, other) == slow_typing_errors(one, other), (one, other)
    assert typing_errors("kitten", "sitting") == 3


def test_prefixes_come_first_and_then_the_nearest() -> None:
    known = ["warmup-epochs", "epochs", "steps", "depth", "epoch-size", "drop-epochs"]
    assert nearest("epoch", known) == ["epochs", "epoch-size", "drop-epochs"]
    assert nearest("epohcs", known, most=1) == ["epochs"]
    assert nearest("zzz", known) == []
