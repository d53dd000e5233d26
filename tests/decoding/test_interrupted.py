"""Steps that fail, calls that are interrupted, requests that are taken back: what is left is right or has ended."""

from __future__ import annotations

from typing import Any

import pytest

from paradraft.decoding import Engine, Request
from paradraft.models import Target, slots
from tests.conftest import make_drafter

from .test_engine import transformers_greedy


def test_nothing_is_left_behind_by_an_interrupted_call(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(target)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(engine, "_round", lambda running: (_ for _ in ()).throw(KeyboardInterrupt))
        engine.generate([[1, 2], [3]], 9, ())
    assert engine.scheduler.idle
    assert engine.generate([[1, 2]], 9, ())[0].tokens == transformers_greedy(target, [1, 2], 9)


def test_a_step_that_fails_ends_what_runs_and_nothing_else(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the commit, so that the slots hold tokens that nobody was told of; the engine is good for others."""
    drafter = make_drafter(target)
    engine = Engine(target, drafter, max_rows=2)
    running = [engine.add(Request(prompt, 20, stops=frozenset())) for prompt in ([4, 9, 2], [8], [1, 2])]
    engine.step()
    observe = type(drafter).observe

    def failing(*given: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(drafter), "observe", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    monkeypatch.setattr(type(drafter), "observe", observe)
    assert [sequence.finished for sequence in running] == [True, True, False]
    while not running[2].finished:
        engine.step()
    assert running[2].generation.tokens == transformers_greedy(target, [1, 2], 20)


def test_a_request_for_which_there_is_no_memory_can_be_taken_back(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(target)
    first = engine.add(Request([4, 9, 2], 20, stops=frozenset()))
    engine.step()
    second = engine.add(Request([8], 60, stops=frozenset()))

    def failing(*given: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(slots, "resized", failing)
        engine.step()
    engine.cancel([first, second])
    assert engine.generate([[8]], 20, ())[0].tokens == transformers_greedy(target, [8], 20)


def test_what_is_taken_back_twice_gives_one_slot_free(target: Target) -> None:
    engine = Engine(target)
    sequence = engine.add(Request([4, 9, 2], 20, stops=frozenset()))
    engine.step()
    engine.cancel([sequence, sequence])
    both = [engine.add(Request(prompt, 20, stops=frozenset())) for prompt in ([8], [1, 2])]
    engine.step()
    assert both[0].slot != both[1].slot
