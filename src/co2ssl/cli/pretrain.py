"""``co2ssl pretrain``: every field of the recipe is an option, with the recipe's value as its default."""

from __future__ import annotations

from co2ssl.cli.options import Option, given, parse, value_of
from co2ssl.cli.recipe_options import recipe_and_run_options
from co2ssl.config import DEFAULT_RECIPE

_EXAMPLES = [
    "co2ssl pretrain photos/ --out runs/photos                      # fitted to your images and machine",
    "co2ssl pretrain cifar10:data/ --download --out runs/c10 --recipe simclr-small-32+co2",
    "co2ssl pretrain photos.csv --out runs/photos --max-bad-share 0.2",
    "co2ssl pretrain imagenet/ --out runs/moco --recipe moco+co2    # the paper's values, all of them",
    "co2ssl pretrain imagenet/ --out runs/m2 --recipe moco-v2 --epochs 100 --lr 0.06",
    "co2ssl pretrain --resume runs/photos",
    "co2ssl pretrain --recipe simclr --help                         # that recipe's values as defaults",
]


def run(words: list[str]) -> None:
    """Train, and say where the backbone is."""
    named = value_of(words, "--recipe", "")
    fields, boxes = recipe_and_run_options(named)
    own = {
        "data": Option(
            kind=str | None,
            help="Images: a folder, nested to any depth, labels not needed; a .txt or .csv list of paths; "
            "cifar10:PATH, cifar100:PATH, imagenet:PATH, imagenet100:PATH, voc:PATH; or demo. None with --resume.",
            default=None,
            positional=True,
        ),
        "out": Option(
            kind=str | None,
            help="Folder of the new run: empty or missing, or left by a run that came to nothing.",
            default=None,
        ),
        "recipe": Option(
            kind=str | None,
            help=f"A name from `co2ssl methods`, with or without +co2, or a YAML file. "
            f"Without one: {DEFAULT_RECIPE}, --auto.",
            default=None,
        ),
        "auto": Option(
            kind=bool,
            help="Fit the recipe to the images and this machine; every change is printed with its reason. "
            "Never touches alpha, tau_con and tau_ins.",
            default=not named,
        ),
        "resume": Option(
            kind=str | None,
            help="Continue the run in this folder from its last checkpoint, with the settings it has; only "
            "--max-bad-share, --workers, --cache, --device, --download and the --...-every may be others. That cannot "
            "make it longer: its schedule was laid out at the start over all its epochs.",
            default=None,
        ),
        "quiet": Option(kind=bool, help="No progress.", default=False),
    }
    values = parse(
        words,
        own | fields,
        command="pretrain",
        description="Train a backbone on unlabelled images. Of a folder with train and val in it, only train is used.",
        examples=_EXAMPLES,
        groups=boxes,
    )
    from co2ssl.api import pretrain

    changed = {name: values[name] for name in fields if name in given(words, list(fields))}
    pretrain(
        values["data"],
        out=values["out"],
        recipe=values["recipe"],
        # Whether nothing was said or the usual: the one goes with --resume, the other does not.
        auto=values["auto"] if given(words, ["auto"]) else None,
        resume=values["resume"],
        quiet=values["quiet"],
        **changed,
    )
