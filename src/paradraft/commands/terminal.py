"""Progress bars, notes and the origin of a target's weights, shown alike by every command."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..numbers import duration

if TYPE_CHECKING:
    from ..models import Target


LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal


class Advance(Protocol):
    """Moves a bar by `amount`; `figures`, if given, is the new text after the bar."""

    def __call__(self, amount: int, figures: str | None = None) -> None: ...


@contextmanager
def progress_bar(console: Console, title: str, total: int, done: int = 0, stays: bool = False) -> Iterator[Advance]:
    """A bar with count, time spent and time left; yields the function that advances it. It vanishes unless `stays`.

    Where output goes to a file there are lines instead, one every LINE_SECONDS.
    """
    if not console.is_terminal:
        yield progress_lines(console, title, total, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    figures_column = TextColumn("{task.fields[figures]}")
    with Progress(*columns, TimeRemainingColumn(), figures_column, console=console, transient=not stays) as progress:
        task = progress.add_task(title, total=total, completed=done, figures="")

        def advance(amount: int, figures: str | None = None) -> None:
            progress.update(task, advance=amount)
            if figures is not None:
                progress.update(task, figures=figures)

        yield advance


def progress_lines(console: Console, title: str, total: int, done: int) -> Advance:
    """The function that counts, and from time to time prints, how far the work is."""
    started = printed = time.monotonic()
    count, shown = done, ""

    def advance(amount: int, figures: str | None = None) -> None:
        nonlocal printed, count, shown
        count, shown, now = count + amount, shown if figures is None else figures, time.monotonic()
        if now - printed < LINE_SECONDS or count == done:
            return
        printed, spent = now, now - started
        left = spent / (count - done) * max(0, total - count)
        console.print(
            f"{title}: {count:,} of {total:,}, {duration(spent)} so far, about {duration(left)} left  {shown}".rstrip(),
            markup=False,
            soft_wrap=True,
        )

    return advance


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print each on a line of its own, marked as a note."""
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")


def print_origin(console: Console, target: Target) -> None:
    """Say from which GGUF file a target comes; print nothing for other targets."""
    if target.origin is not None:
        console.print(f"{target.name}: {target.origin}", markup=False)
