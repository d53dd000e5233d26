"""Progress of long work: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from paradraft.commands import terminal
from paradraft.commands.terminal import progress_bar


class Clock:
    """Stands for the module `time`; each look at it moves it on."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def lines(monkeypatch: pytest.MonkeyPatch, seconds: float, done: int = 0, quiet: bool = False) -> list[str]:
    """What is printed without a terminal of three advances, `seconds` apart."""
    monkeypatch.setattr(terminal, "time", Clock(seconds))
    out = io.StringIO()
    with progress_bar(Console(file=out, width=40, quiet=quiet), "writing [all]", 2000, done) as advance:
        advance(100)
        advance(300, "loss 2.5")
        advance(600)
    return out.getvalue().splitlines()


def test_without_a_terminal_long_work_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, 60) == [
        "writing [all]: 100 of 2,000, 60 s so far, about 19 min left",
        "writing [all]: 400 of 2,000, 2 min so far, about 8 min left  loss 2.5",
        "writing [all]: 1,000 of 2,000, 3 min so far, about 3 min left  loss 2.5",
    ]
    assert len(lines(monkeypatch, 20)) == 1  # one every half minute


def test_the_time_left_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, 60, done=900)[0] == "writing [all]: 1,000 of 2,000, 60 s so far, about 10 min left"


def test_short_work_and_quiet_consoles_print_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, 1) == []
    assert lines(monkeypatch, 60, quiet=True) == []


def test_a_terminal_shows_a_bar() -> None:
    out = io.StringIO()
    with progress_bar(Console(file=out, force_terminal=True, width=100), "writing", 20, stays=True) as advance:
        advance(20, "loss 2.5")
    assert "20/20" in out.getvalue() and "loss 2.5" in out.getvalue()
