"""Lists of image files: a ``.txt`` with one path a line, or a ``.csv`` with a header."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from co2ssl.data.sources.files import FileSource, Paths
from co2ssl.data.sources.folder import SPLIT_FOLDERS, SPLIT_PARTS
from co2ssl.data.sources.protocol import DataError

LIST_ENDINGS = (".txt", ".csv")
COLUMNS = ("path", "label", "split")

# How many paths of a list are looked at to find out whether they are meant relative to something else.
_LOOKED_AT = 16
_LINE_END = b"\n"


@dataclass(frozen=True)
class _Table:
    """Columns of a list; ``labels`` and ``splits`` are empty where it has none. A row object each would be too many."""

    first_line: int
    paths: list[bytes]
    labels: list[str]
    splits: list[str]


def open_list(path: str, split: str) -> FileSource:
    """The images that a list names, in its order.

    Args:
        path: of the list. Its paths are absolute, or relative to the folder it lies in. A ``.txt`` holds one path a
            line. A ``.csv`` (commas, UTF-8) has a header with the column ``path`` and, if it likes, ``label`` (any
            words, then in every row) and ``split`` (a word of :data:`~co2ssl.data.sources.folder.SPLIT_FOLDERS`, in any
            case of letters); other columns are passed over. Empty lines are too.
        split: "train" or "val": which rows to take of a list with a column ``split``; any other is taken whole. As of
            folders, "val" is the rows to validate on, and those to test on only where there are none.

    Raises:
        DataError: a list that cannot be read, or a row that cannot be used; the message names the line.
    """
    try:
        table = _read_csv(path) if path.lower().endswith(".csv") else _read_text(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not table.paths:
        raise DataError(f"{path} names no images; it needs one path a line")
    taken = np.arange(len(table.paths))
    if table.splits:
        there = set(table.splits)
        words = next((words for words in SPLIT_PARTS[split] if there.intersection(words)), ())
        if not words:
            raise DataError(f"no row of {path} has the split {split}; its column 'split' says {table.splits[0]!r}")
        taken = np.array([row for row in taken if table.splits[row] in words], dtype=np.int64)
    _require_some_file(path, table)
    paths = Paths.of([table.paths[row] for row in taken])
    if not table.labels:
        return FileSource(path, os.path.dirname(path), paths)
    # Classes are those of the whole list: its parts then agree on them.
    classes = tuple(sorted(set(table.labels)))
    place = {name: number for number, name in enumerate(classes)}
    labels = np.array([place[table.labels[row]] for row in taken], dtype=np.int64)
    return FileSource(path, os.path.dirname(path), paths, labels, classes)


def _read_text(path: str) -> _Table:
    with open(path, "rb") as file:
        text = file.read().removeprefix(b"\xef\xbb\xbf")
    if b"\0" in text:
        raise DataError(f"{path}, line {text[: text.index(0)].count(_LINE_END) + 1}: a zero byte; is this a text file?")
    lines = [line.rstrip(b"\r") for line in text.split(_LINE_END)]
    first_line = next((number for number, line in enumerate(lines, start=1) if line.strip()), 1)
    return _Table(first_line, [line for line in lines if line.strip()], [], [])


def _read_csv(path: str) -> _Table:
    first_line = 0
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    paths: list[bytes] = []
    # One object for all rows of a class, or of a split.
    words: dict[str, dict[str, str]] = {name: {} for name in COLUMNS}
    # Names that are not UTF-8 keep their bytes; a byte order mark, as spreadsheets write it, is no part of the header.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = _records(path, file)
        _, names = next(records, (1, []))
        header = [name.strip().lower() for name in names]
        _check_header(path, header)
        path_column = header.index("path")
        others = [(name, header.index(name)) for name in ("label", "split") if name in header]
        for line, fields in records:
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(fields)} fields, and the header has {len(header)}; "
                    'a field that holds a comma is written in "quotes"'
                )
            first_line = first_line or line
            paths.append(_checked_path(fields[path_column], path, line))
            for name, column in others:
                text = fields[column]
                if text not in words[name]:
                    check = _checked_split if name == "split" else _checked_label
                    words[name][text] = check(text, path, line)
                columns[name].append(words[name][text])
    return _Table(first_line, paths, columns["label"], columns["split"])


def _records(path: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of its (last) line."""
    reader = csv.reader(file, strict=True)
    try:
        yield from ((reader.line_num, fields) for fields in reader if fields)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _check_header(path: str, header: list[str]) -> None:
    if "path" not in header:
        near = difflib.get_close_matches("path", header, n=1)
        found = ", ".join(header) or "nothing"
        hint = f"; is it {near[0]}?" if near else ""
        raise DataError(f"{path}, line 1: the header needs a column 'path' and has {found}{hint}")
    for name in header:
        near = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.75)
        if header.count(name) > 1 and name in COLUMNS:
            raise DataError(f"{path}, line 1: there are {header.count(name)} columns {name!r}; leave one")
        if near and name not in COLUMNS and near[0] not in header:
            raise DataError(f"{path}, line 1: unknown column {name!r}; did you mean {near[0]}?")


def _checked_path(text: str, path: str, line: int) -> bytes:
    if not text.strip() or "\0" in text:
        raise DataError(f"{path}, line {line}: no path")
    return os.fsencode(text)


def _checked_label(label: str, path: str, line: int) -> str:
    if not label.strip():
        raise DataError(f"{path}, line {line}: no label; give one in every row, or leave the column out")
    return label.strip()


def _checked_split(split: str, path: str, line: int) -> str:
    known = [name for names in SPLIT_FOLDERS.values() for name in names]
    word = split.strip().lower()
    if word in known:
        return word
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use {' or '.join(SPLIT_FOLDERS)}"
    raise DataError(f"{path}, line {line}: no split is called {split!r}; {hint}")


def _require_some_file(path: str, table: _Table) -> None:
    """Files that are gone are for the loader to report; a list of which none is there is a mistake in the list."""
    folder = os.fsencode(os.path.dirname(path))
    looked_at = table.paths[:: max(1, len(table.paths) // _LOOKED_AT)]
    if any(os.path.lexists(os.path.join(folder, name)) for name in looked_at):
        return
    raise DataError(
        f"{path}, line {table.first_line}: there is no file {os.fsdecode(os.path.join(folder, looked_at[0]))}, nor any "
        f"other of {len(looked_at)} looked at. Paths are absolute, or relative to the folder of the list; a .txt holds "
        "nothing but paths (labels need a .csv with the header path,label)"
    )
