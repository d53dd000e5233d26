"""Emitted length and acceptance without plain decoding beside them, which is all that a training run watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..decoding import Engine, Generation, Sampling
from ..drafters import Drafter
from ..models import Target
from .measure import first_turn
from .prompts import Prompt
from .statistics import Acceptance, acceptance, ratio, rounds_and_tokens


@dataclass(frozen=True)
class Watched:
    """Micro emitted length, and acceptance by draft position."""

    emitted_length: float
    acceptance: Acceptance


def decode_first_turns(
    target: Target, drafter: Drafter, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int
) -> list[Generation]:
    """Answers at temperature 0 to the first turn of each prompt."""
    engine = Engine(target, drafter, Sampling())
    asked = [first_turn(target, prompt) for prompt in prompts]
    generations = []
    for start in range(0, len(asked), batch_size):
        generations += engine.generate(asked[start : start + batch_size], max_new_tokens)
    return generations


def watched(generations: Sequence[Generation], steps: int) -> Watched:
    """Emitted length and acceptance of drafts of `steps` tokens."""
    rounds, tokens = rounds_and_tokens(generations)
    return Watched(ratio(tokens, rounds) or 1.0, acceptance(generations, steps))
