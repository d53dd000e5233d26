"""What a drafter does while nothing is drafted: it reads the text later, all at once, or gives rows up."""

from __future__ import annotations

import itertools

import pytest
import torch

from paradraft.decoding import Engine, draft
from paradraft.decoding.draft import Deferred
from paradraft.decoding.history import ChainHistory
from paradraft.decoding.length import Adaptive, Fixed
from paradraft.decoding.request import Round, Sequence
from paradraft.models import Target
from tests.conftest import KINDS, make_drafter_of

from .test_engine import transformers_greedy
from .test_length import Given, Timed, sequence


class Scripted(Adaptive):
    """Lengths in turn, whatever they bring."""

    def __init__(self, lengths: list[int], most: int) -> None:
        super().__init__(Given(most), ChainHistory(most))
        self.script = itertools.cycle(lengths)

    def choose(self, sequences: list[Sequence]) -> list[int]:
        return [min(next(self.script), s.room - 1) for s in sequences]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_catches_up_with_what_it_did_not_see(
    target: Target, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After plain steps it drafts what it drafts when it observes every token at once."""
    drafter = make_drafter_of(kind, target)
    found = []
    for later in (1, 3, 64):
        monkeypatch.setattr(draft, "LATER", later)
        engine = Engine(target, drafter, max_rows=2)
        engine.lengths = Scripted([0, 0, 3, 3, *[0] * 14, 2, 0, 0, 0], drafter.max_draft)
        generations = engine.generate([[4, 9, 2], [8], [1, 2, 3, 4]], 40, ())
        assert [g.tokens for g in generations] == [
            transformers_greedy(target, p, 40) for p in ([4, 9, 2], [8], [1, 2, 3, 4])
        ]
        found.append([g.rounds for g in generations])
    assert found[0] == found[1] == found[2]
    assert {0, 2, 3} <= {len(r.drafted) for rounds in found[0] for r in rounds}


@pytest.mark.parametrize(("catch_up", "kept"), [(0.0, 4), (0.004, 3), (0.02, 0)])
def test_a_resting_drafter_reads_as_many_rows_as_it_may(catch_up: float, kept: int) -> None:
    """Of a plain step of 1 it may take KEEPING; the rows that accepted most stay, and those given up draft no more."""
    costs = Given(4, row=0.0)
    costs.catch_up = catch_up
    rule, rows = Timed(4, costs), [sequence(5000) for _ in range(4)]
    for _ in range(3):
        for place, row in enumerate(rows):
            row.generation.rounds.append(Round((1,), int(place > 0), 1 + int(place > 0)))
            rule.history.add(row, 1, row.generation.rounds[-1])
    rule.history.kept[:] = 0
    rule.history.seen[:] = 1000
    rule.history.update()
    later = []
    for _ in range(400):
        lengths = rule.choose(rows)
        for row, length in zip(rows, lengths, strict=True):
            row.generation.rounds.append(Round((1,) * length, 0, 1))
        rule.learn(rows, lengths)
        later.append(lengths)
    assert sum(row.followed for row in rows) == kept and (kept == 4 or not rows[0].followed)
    drafting = [lengths for lengths in later[draft.LATER :] if any(lengths)]
    assert bool(drafting) == (kept > 0)
    assert all(length == 0 or row.followed for lengths in drafting for row, length in zip(rows, lengths, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_given_up_are_decoded_plainly_to_their_end(
    target: Target, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn, while others draft; and the texts that come after them draft as if nothing had been."""

    class GivingUp(Scripted):
        def choose(self, sequences: list[Sequence]) -> list[int]:
            for place, row in enumerate(sequences):
                row.followed = row.followed and len(row.generation.tokens) < 6 + 7 * place
            return [
                length if row.followed else 0 for row, length in zip(sequences, super().choose(sequences), strict=True)
            ]

    monkeypatch.setattr(draft, "LATER", 3)
    drafter, prompts = make_drafter_of(kind, target), [[4, 9, 2], [8], [1, 2, 3, 4], [5, 5]]
    engine = Engine(target, drafter, max_rows=2)
    engine.lengths = GivingUp([0, 0, 3, 3, 0, 0, 0, 0, 0, 2], drafter.max_draft)
    generations = engine.generate(prompts, 30, ())
    assert [g.tokens for g in generations] == [transformers_greedy(target, prompt, 30) for prompt in prompts]
    assert all(not round.drafted for g in generations for round in g.rounds[-5:])
    engine.lengths = Fixed(drafter.max_draft)
    fresh = Engine(target, drafter, max_rows=2).generate(prompts, 30, ())
    assert [g.rounds for g in engine.generate(prompts, 30, ())] == [g.rounds for g in fresh]


def test_what_is_given_up_is_not_read_later() -> None:
    waiting = Deferred()
    waiting.add([4, 7], torch.zeros(2, 1, 3), torch.tensor([[1], [2]]))
    waiting.add([7], torch.zeros(1, 1, 3), torch.tensor([[5]]))
    found = waiting.take()
    assert found is not None
    slots, _, tokens, counts = found
    assert (slots, tokens.tolist(), counts.tolist()) == ([7], [[2, 5]], [2])


def test_what_waits_for_a_row_that_can_draft_is_not_spent_at_once() -> None:
    """A row that was given up decodes plainly for thousands of steps; the next one is asked, but not all the time."""
    costs = Given(4, row=0.0)
    costs.catch_up = 0.02
    rule, hopeless = Timed(4, costs), sequence(100_000)
    for row, steps in ((hopeless, 5000), (sequence(5000), 100)):
        drafting = 0
        for number in range(steps):
            (length,) = rule.choose([row])
            row.generation.rounds.append(Round((1,) * length, 0, 1))
            rule.learn([row], [length])
            drafting += number < 20 and length > 0
    assert not hopeless.followed and drafting <= 3
