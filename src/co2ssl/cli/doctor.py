"""``co2ssl doctor``: what the images are like, what a run on them waits for, how long it takes."""

from __future__ import annotations

from co2ssl.cli.options import Option, given, parse, value_of
from co2ssl.cli.recipe_options import recipe_and_run_options
from co2ssl.config import DEFAULT_RECIPE

_EXAMPLES = [
    "co2ssl doctor photos/                                  # with the recipe that pretrain would fit to them",
    "co2ssl doctor photos/ --recipe moco-small-64+co2 --workers 4 --cache",
    "co2ssl doctor imagenet/ --recipe moco-v2 --device cuda --precision bf16",
    "co2ssl doctor photos/ --sample 100000 --json > photos.json",
]


def run(words: list[str]) -> None:
    """Look, measure, and say what was found; exit with 1 where ``pretrain`` would not run to its end."""
    named = value_of(words, "--recipe", "")
    fields, boxes = recipe_and_run_options(named)
    own = {
        "data": Option(
            kind=str,
            help="Images, as for pretrain: a folder, nested to any depth; a list; cifar10:PATH, ...; or demo.",
            positional=True,
        ),
        "recipe": Option(
            kind=str | None,
            help=f"A name from `co2ssl methods`, with or without +co2, or a YAML file. "
            f"Without one: {DEFAULT_RECIPE}, --auto.",
            default=None,
        ),
        "auto": Option(kind=bool, help="Fit the recipe to the images and this machine.", default=not named),
        "sample": Option(
            kind=int | None,
            help="Most images to look at, a random part where there are more. None: up to 2,000, as many as take half "
            "a minute.",
            default=None,
        ),
        "seconds": Option(kind=float, help="How long to measure each part.", default=2.0),
        "json": Option(kind=bool, help="Print the whole diagnosis as JSON.", default=False),
    }
    values = parse(
        words,
        own | fields,
        command="doctor",
        description="Look at the images (counts, sizes, formats, channels, copies, bad files), measure disk, decode, "
        "views, copy and model step by themselves, say which one binds and what to change, and predict time and "
        "memory. Nothing is trained or written. Exits with 1 where pretrain would refuse, or stop.",
        examples=_EXAMPLES,
        groups=boxes,
    )
    import json

    from rich.console import Console

    from co2ssl.api.diagnosis import doctor, in_words

    console = Console(stderr=True)
    with console.status("starting") as status:
        diagnosis = doctor(
            values["data"],
            recipe=values["recipe"],
            auto=values["auto"],
            sample=values["sample"],
            seconds=values["seconds"],
            say=status.update if console.is_terminal else None,
            **{name: values[name] for name in fields if name in given(words, list(fields))},
        )
    print(json.dumps(diagnosis.as_json(), indent=2) if values["json"] else in_words(diagnosis))
    if diagnosis.problem is not None:
        raise SystemExit(1)
