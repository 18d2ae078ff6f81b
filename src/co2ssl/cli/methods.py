"""``co2ssl methods``: the recipes, their papers, and where their values come from."""

from __future__ import annotations

from co2ssl.cli.options import parse
from co2ssl.config import recipe_table


def run(words: list[str]) -> None:
    """Print a table with a line for each recipe."""
    from rich.console import Console
    from rich.table import Table

    parse(
        words,
        {},
        command="methods",
        description="The recipes that come with the package: paper, whether +co2 applies, and the marks of their "
        "values (seen in a source, recalled from the paper and unverified, or ours).",
        examples=["co2ssl methods", "co2ssl pretrain DATA --out RUN --recipe moco-v2+co2"],
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "paper", "+co2", "values"):
        table.add_column(heading, overflow="fold")
    for row in recipe_table():
        table.add_row(row.recipe, row.paper, row.co2, row.marks)
    console = Console()
    # A pipe has no width of its own, and 80 columns would break every row.
    (console if console.is_terminal else Console(width=160)).print(table)
