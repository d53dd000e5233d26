"""Progress bars, notes and the origin of a target's weights, shown alike by every command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ..models import Target


class Advance(Protocol):
    """Moves a bar by `amount`; `figures`, if given, is the new text after the bar."""

    def __call__(self, amount: int, figures: str | None = None) -> None: ...


@contextmanager
def progress_bar(console: Console, title: str, total: int, done: int = 0, stays: bool = False) -> Iterator[Advance]:
    """A bar with count, time spent and time left; yields the function that advances it. It vanishes unless `stays`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    figures_column = TextColumn("{task.fields[figures]}")
    with Progress(*columns, TimeRemainingColumn(), figures_column, console=console, transient=not stays) as progress:
        task = progress.add_task(title, total=total, completed=done, figures="")

        def advance(amount: int, figures: str | None = None) -> None:
            progress.update(task, advance=amount)
            if figures is not None:
                progress.update(task, figures=figures)

        yield advance


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print each on a line of its own, marked as a note."""
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")


def print_origin(console: Console, target: Target) -> None:
    """Say from which GGUF file a target comes; print nothing for other targets."""
    if target.origin is not None:
        console.print(f"{target.name}: {target.origin}", markup=False)
