"""The one exception a user ever sees without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A user's mistake: one sentence that says what is wrong and what to do. The command line exits with code 2."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run_program(name: str, call: Callable[[], object]) -> None:
    """A user's mistake prints one sentence and exits with 2, Ctrl-C exits with 130; a bug shows a traceback."""
    try:
        call()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
