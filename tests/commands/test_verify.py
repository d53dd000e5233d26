"""What `paradraft verify` says of texts that differ."""

from __future__ import annotations

from paradraft.commands.verify import SHOWN, exact_sentence
from paradraft.evaluation.lossless import Divergence, ExactResult


def test_texts_that_differ_are_named_but_for_ties() -> None:
    found = (Divergence(0, 7, 0.0, True), Divergence(3, 11, 0.25, False), Divergence(4, 2, float("inf"), False))
    first, second, third = exact_sentence(ExactResult(8, 100, found)).splitlines()
    assert "5 texts identical, 1 differ at a tie" in first and first.endswith("2 differ otherwise: FAILED")
    assert (
        second == "prompt 4 differs from token 12 of the answer on: the target's two best logits are 0.25 apart there"
    )
    assert third == "prompt 5 differs from token 3 of the answer on: one text ends there"


def test_many_texts_that_differ_are_named_in_part() -> None:
    found = tuple(Divergence(n, 0, 1.0, False) for n in range(SHOWN + 3))
    assert len(exact_sentence(ExactResult(10, 100, found)).splitlines()) == 1 + SHOWN
    assert exact_sentence(ExactResult(10, 100, ())).endswith(", 0 differ otherwise: passed")
