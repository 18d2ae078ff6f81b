"""``co2ssl demo``."""

from __future__ import annotations

from co2ssl.cli.options import Option, parse


def run(words: list[str]) -> None:
    """Train twice, print the table, say where the page is."""
    values = parse(
        words,
        {
            "out": Option(
                kind=str, help="Folder for the two runs and the page; an earlier demo is replaced.", default="runs/demo"
            ),
            "seed": Option(kind=int, help="Of both trainings.", default=0),
            "quiet": Option(kind=bool, help="No progress, only the table.", default=False),
        },
        command="demo",
        description="Train MoCo v2 without and with CO2 on images that come with the package, and measure raw pixels, "
        "the untrained encoder and both: one table, one page. About four minutes on two cores.",
        examples=["co2ssl demo", "co2ssl demo --seed 1 --out runs/demo-1"],
    )
    import sys

    from co2ssl.api.demonstration import demo, in_words

    quiet = values["quiet"]

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    print(in_words(demo(values["out"], seed=values["seed"], quiet=quiet, say=say)))
