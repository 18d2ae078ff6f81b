"""Errors meant for the person at the keyboard: one clear message, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message says what was wrong, where, and what to do.

    Attributes:
        exit_code: what the command line exits with: 2 for wrong usage, 1 for everything else.
    """

    exit_code = 1


class UsageError(UserError):
    """A wrong option, name or value."""

    exit_code = 2
