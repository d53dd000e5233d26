"""The one exception a user ever sees without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake: one sentence that says what is wrong and what to do. The command line exits with code 2."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
