"""Pages of docs with places for tables: what lies between ``<!-- NAME -->`` and ``<!-- end -->`` is made from JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def fill_in(page: str, made: Mapping[str, str]) -> str:
    """The page with each table in its place; the sentences around them are left as they are.

    Raises:
        ValueError: a place without a table, or a table without a place.
    """
    places = set(re.findall(r"<!-- (?!end)([\w-]+) -->", page))
    if places != set(made):
        raise ValueError(f"the page has places for {sorted(places)}, the tables are {sorted(made)}")
    for name, table in made.items():
        start = page.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n")
        page = page[:start] + table + "\n" + page[page.index("<!-- end -->", start) :]
    return page


def row(*cells: str) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table(rows: Sequence[str]) -> str:
    """Rows with the line that follows the first."""
    return "\n".join([rows[0], re.sub(r"[^|]+", "---", rows[0]), *rows[1:]])
