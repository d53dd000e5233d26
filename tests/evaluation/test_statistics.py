"""Intervals: a bootstrap draws prompts, with all their turns."""

from __future__ import annotations

import numpy as np
import pytest

from paradraft.decoding import Generation
from paradraft.decoding.request import Round
from paradraft.evaluation.statistics import emitted_length, paired_difference


def answer(emitted: int, rounds: int = 10) -> Generation:
    tokens = list(range(1 + rounds * emitted))
    return Generation(tokens, [Round((1,) * 4, emitted - 1, emitted) for _ in range(rounds)])


def test_turns_of_a_conversation_are_drawn_together() -> None:
    """Two equal turns say no more than one: the interval is that of one turn, and sqrt(2) times that of two prompts."""
    rng = np.random.default_rng(1)
    once = [answer(int(n)) for n in rng.integers(1, 5, 40)]
    twice = [*once, *once]
    alone = emitted_length(once)
    together = emitted_length(twice, [*range(40), *range(40)])
    apart = emitted_length(twice)
    assert (together.low, together.high, together.macro) == (alone.low, alone.high, alone.macro)
    assert alone.low is not None and alone.high is not None and apart.low is not None and apart.high is not None
    assert (alone.high - alone.low) / (apart.high - apart.low) == pytest.approx(2**0.5, rel=0.1)
    assert together.micro == apart.micro == alone.micro


def test_differences_are_of_whole_conversations() -> None:
    rng = np.random.default_rng(2)
    first = [answer(int(n)) for n in rng.integers(1, 5, 30)]
    second = [answer(int(n)) for n in rng.integers(2, 6, 30)]
    numbers = [*range(30), *range(30)]
    assert paired_difference([*first, *first], [*second, *second], numbers) == paired_difference(first, second)


def test_macro_is_the_mean_over_prompts() -> None:
    """Of two turns with 1 and 3 tokens a round, the second with three times the rounds, and a prompt with 4."""
    found = emitted_length([answer(1, 10), answer(4, 5), answer(3, 30)], [7, 3, 7])
    assert found.macro == pytest.approx(((10 + 90) / 40 + 4) / 2)
