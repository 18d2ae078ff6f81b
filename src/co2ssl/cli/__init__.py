"""The command line: ``co2ssl demo | pretrain | views | doctor | evaluate | methods``.

Torch and the rest are imported inside the command that needs them, so that help and a misspelt word answer at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from co2ssl.cli.process import suit_training
from co2ssl.errors import UsageError, UserError
from co2ssl.version import __version__

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""

COMMANDS = {
    "demo": "train with and without CO2 on embedded images: a table and a page in four minutes",
    "pretrain": "images in, a trained backbone out",
    "views": "a picture of what a recipe does to your images",
    "doctor": "what your images are like, what a run on them waits for, how long it takes",
    "evaluate": "measure a backbone: knn, linear, svm, finetune, supervised, all",
    "methods": "the recipes, their papers, and where their values come from",
}
"""Every command with its line on the help page. Each is a module of this package with a function ``run(words)``."""

_EXAMPLES = """\
examples:
  co2ssl demo
  co2ssl views photos/ --recipe moco-v2
  co2ssl doctor photos/
  co2ssl pretrain photos/ --out runs/photos
  co2ssl pretrain imagenette/ --out runs/r --recipe moco-small-64+co2 --epochs 40
  co2ssl pretrain --resume runs/r
  co2ssl evaluate knn runs/r imagenette/train imagenette/val
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for what failed, 2 for wrong usage, 130 after Ctrl-C.

    Args:
        arguments: the words after ``co2ssl``; None for those of the process.
    """
    suit_training()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except UserError as error:
        print(f"co2ssl: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("co2ssl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        print(
            f"co2ssl: error: no memory is left on the device: {error}\nGive a smaller --batch-size, --precision bf16 "
            "or another --device, or free what other programs hold.",
            file=sys.stderr,
        )
        return 1


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is torch that says so; without torch it is not imported to ask."""
    if "torch" not in sys.modules:
        return False
    from co2ssl.train.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else UsageError.exit_code
    if words[0] in ("-V", "--version"):
        print(f"co2ssl {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no command {name!r}.{hint} Commands: {', '.join(COMMANDS)}.")
    import_module(f"co2ssl.cli.{name}").run(rest)
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: co2ssl COMMAND [OPTIONS]",
            "",
            "Visual representations from unlabelled images, by consistent contrast (CO2, ICLR 2021).",
            "",
            "commands:",
            *lines,
            "",
            "  co2ssl COMMAND --help lists a command's options; co2ssl --version says which version this is.",
            "",
            _EXAMPLES,
        ]
    ).rstrip()
