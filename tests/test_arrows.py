"""The direction of imports: only left along the flow, no cycles, and config stays at the top."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import co2ssl

SOURCE = Path(co2ssl.__file__).parent
FLOW = ["distributed", "data", "encoders", "memory", "losses", "methods", "train", "evaluate", "report", "api", "cli"]
READERS_OF_CONFIG = {"config", "train", "evaluate", "api", "cli"}


def modules() -> dict[str, Path]:
    """Dotted name of every module of the package, and its file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ["co2ssl", *path.relative_to(SOURCE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, module: str, *, is_package: bool, known: set[str]) -> Iterator[str]:
    """Modules of the package that a syntax tree imports, wherever in the file, relative imports resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*prefix, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name.startswith("co2ssl"):
                yield name


def arrows() -> list[tuple[str, str]]:
    found = modules()
    pairs: list[tuple[str, str]] = []
    for name, path in found.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = imported(tree, name, is_package=path.name == "__init__.py", known=set(found))
        pairs.extend((name, target) for target in targets)
    return pairs


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_imports_point_only_left_along_the_flow() -> None:
    wrong = [
        f"{source} imports {target}"
        for source, target in arrows()
        if room(source) in FLOW and room(target) in FLOW and FLOW.index(room(target)) > FLOW.index(room(source))
    ]
    assert not wrong


def test_only_the_top_reads_config() -> None:
    wrong = [
        f"{source} imports {target}"
        for source, target in arrows()
        if room(target) == "config" and room(source) not in READERS_OF_CONFIG and room(source) != ""
    ]
    assert not wrong


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in arrows():
        if source != target:
            graph.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(graph.get(module, ())):
            visit(target, [*path, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])


def test_every_room_is_in_the_flow() -> None:
    rooms = {room(name) for name in modules()} - {""}
    assert rooms - set(FLOW) <= {"config", "cores", "errors", "lazy", "recipes", "version", "__main__"}
    assert set(FLOW) <= rooms


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from ..train import loop", "co2ssl.train.loop"),
        ("from co2ssl.train import loop", "co2ssl.train.loop"),
        ("import co2ssl.train.loop", "co2ssl.train.loop"),
        ("def f():\n    from co2ssl.train.loop import train", "co2ssl.train.loop"),
    ],
)
def test_the_reader_sees_every_kind_of_import(line: str, expected: str) -> None:
    known = {"co2ssl", "co2ssl.train", "co2ssl.train.loop"}
    assert list(imported(ast.parse(line), "co2ssl.losses.info_nce", is_package=False, known=known)) == [expected]
