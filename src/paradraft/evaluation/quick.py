"""Emitted length alone, in batches and without a plain baseline: what training watches."""

from __future__ import annotations

from ..data.render import render_prompt
from ..decoding import Engine, Sampling
from ..drafters import Drafter
from ..target import Target
from .measure import require_tokenizer
from .prompts import PromptSet
from .statistics import ratio, rounds_and_tokens


def emitted_length_of(
    target: Target, drafter: Drafter, prompt_set: PromptSet, max_new_tokens: int, batch_size: int
) -> float:
    """Micro emitted length at temperature 0 over the first turns of a prompt set."""
    tokenizer = require_tokenizer(target)
    engine = Engine(target, drafter, Sampling())
    turns = ([{"role": "user", "content": prompt.turns[0]}] for prompt in prompt_set.prompts)
    asked = [render_prompt(tokenizer, messages, target.thinking) for messages in turns]
    generations = []
    for start in range(0, len(asked), batch_size):
        generations += engine.generate(asked[start : start + batch_size], max_new_tokens)
    rounds, tokens = rounds_and_tokens(generations)
    return ratio(tokens, rounds) or 1.0
