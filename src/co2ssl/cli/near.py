"""Which option a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST = 3
"""Letters that a word needs before it counts as the beginning, or a part, of a name."""


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Names that a word is near to, likeliest first.

    First those that begin with the word, or that it begins with; then those that a few typing errors lead to; then
    those that have it within them, or that it has. Each of the three by the number of typing errors.

    Args:
        word: what was typed.
        known: names there are.
        most: how many to return at most.
    """
    ranked = []
    for name in known:
        errors = typing_errors(word, name)
        shorter, longer = sorted((word, name), key=len)
        telling = len(shorter) >= SHORTEST
        if telling and longer.startswith(shorter):
            ranked.append((0, errors, name))
        elif errors <= max(1, len(longer) // 4):
            ranked.append((1, errors, name))
        elif telling and shorter in longer:
            ranked.append((2, errors, name))
    return [name for _, _, name in sorted(ranked)[:most]]


def typing_errors(one: str, other: str) -> int:
    """Edit distance: fewest letters left out, added, changed, or swapped with the next, that make one into the other.

    A letter is touched once at most (optimal string alignment; Damerau, 1964).
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, above, row = row, before, [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
