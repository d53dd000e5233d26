"""What rounds really take corrects the measured costs by which draft lengths are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from paradraft.decoding.length import Adaptive
from paradraft.decoding.request import Round

from .test_length import Given, Timed, sequence


def shares_of_drafting(rule: Adaptive, rows: int, accepted: int, rounds: int = 600) -> float:
    """Share of the last third of the rounds that draft, where so many of every row's drafts are accepted."""
    drafting, running = 0, [sequence() for _ in range(rows)]
    for number in range(rounds):
        lengths = rule.choose(running)
        for row, length in zip(running, lengths, strict=True):
            kept = min(accepted, length)
            row.generation.rounds.append(Round((1,) * length, kept, kept + 1))
        rule.learn(running, lengths, 0.0)
        drafting += number >= rounds * 2 // 3 and any(lengths)
    return drafting / (rounds // 3)


@pytest.mark.parametrize("times", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("rows", [1, 4])
def test_what_rounds_really_take_corrects_the_costs(rows: int, times: float) -> None:
    """One draft of four is accepted. That pays by the cheap costs and not by the dear ones, whatever was measured."""
    cheap, dear = Given(4, 0.01, 0.1, 0.0), Given(4, 0.01, 1.5, 0.0)
    cheap.catch_up = dear.catch_up = 0.0
    assert shares_of_drafting(Timed(4, cheap), rows, 1) > 0.9
    assert shares_of_drafting(Timed(4, dear), rows, 1) < 0.05
    assert shares_of_drafting(Timed(4, cheap, dear, times), rows, 1) < 0.05
    assert shares_of_drafting(Timed(4, dear, cheap, times), rows, 1, 6000) > 0.9


def test_what_the_machine_does_besides_counts_for_little() -> None:
    """One round takes a thousand times as long: costs change by less than a fifth, and by nothing if all slow down."""
    rule, row = Timed(4, Given(4)), sequence()
    plain, drafting = rule._seconds(1)
    for lengths, times in (([4], 1000.0), ([0], 1.0)):
        rule.times = times
        row.generation.rounds.append(Round((1,) * lengths[0], lengths[0], lengths[0] + 1))
        rule.learn([row], lengths)
    assert rule._seconds(1)[0] == plain
    assert (1.05 * drafting < rule._seconds(1)[1]).all() and (rule._seconds(1)[1] < 1.21 * drafting).all()
    again = Timed(4, Given(4), times=1000.0)
    for lengths in ([4], [0], [4], [0]):
        row.generation.rounds.append(Round((1,) * lengths[0], lengths[0], lengths[0] + 1))
        again.learn([row], lengths)
    assert np.allclose(again._seconds(1)[1], drafting)


def test_plain_steps_to_compare_with_cost_little() -> None:
    """Where drafting pays well they are rare; half a per cent of the tokens a second goes there."""
    rule, row, costs = Timed(4, Given(4)), sequence(), Given(4)
    seconds = tokens = plain = 0.0
    for _ in range(2000):
        (length,) = rule.choose([row])
        seconds += costs.verify(1)[length] + costs.draft(1)[0, length]
        tokens, plain = tokens + 1 + length, plain + (length == 0)
        row.generation.rounds.append(Round((1,) * length, length, length + 1))
        rule.learn([row], [length])
    best = 5 / (costs.verify(1)[4] + costs.draft(1)[0, 4])
    assert plain >= 5 and tokens / seconds > 0.993 * best


def test_costs_of_a_busy_machine_are_forgotten_at_the_next_batch() -> None:
    """Plain steps take half of what was measured; one slow or quick step, or a machine busy now, tells nothing."""
    for times, expected in (([0.5] * 16, 1), ([0.5] * 15, 0), ([0.5] * 7 + [1.0] * 9, 0), ([3.0] * 16, 0)):
        costs = Given(4)
        rule = Timed(4, costs)
        for rule.times in times:
            rule.learn([sequence()], [0])
        rule.prepare(1, False)
        assert costs.forgotten == expected


def test_a_new_measurement_is_believed_longer() -> None:
    costs, forgotten = Given(4), []
    rule = Timed(4, costs, times=0.5)
    for step in range(200):
        rule.learn([sequence()], [0])
        rule.prepare(1, False)
        forgotten += [step + 1] * (costs.forgotten - len(forgotten))
    assert forgotten == [16, 16 + 64]


def test_tokens_of_answers_that_ended_are_nobodys() -> None:
    """Each answer ends in plain steps; the drafting round of the next one is as expected, and nothing is behind."""
    rule, costs = Timed(4, Given(4)), Given(4)
    for _ in range(30):
        row = sequence()
        for length in (4, 0, 0, 0):
            rule.choose([row])
            assert length == 0 or rule._behind == 0
            row.generation.rounds.append(Round((1,) * length, length, length + 1))
            Adaptive.learn(rule, [row], [length], costs.verify(1)[length] + costs.draft(1)[0, length])
    assert rule._deviation(1).factor == pytest.approx(1.0)


def test_a_new_row_owes_no_tokens_of_the_rows_beside_it() -> None:
    """It came after three plain steps of the other."""
    rule, costs, old, new = Timed(4, Given(4)), Given(4), sequence(), sequence()
    for row in (old, old, old, old, new):
        row.generation.rounds.append(Round((1,) * 4, 4, 5))
    rule._behind = 3
    expected = costs.verify(2)[4] + costs.draft(2)[1, 4] + 3 * costs.catch_up
    assert rule.expected([old, new], [4, 4]) == pytest.approx(expected)
