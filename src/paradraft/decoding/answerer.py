"""The engine as one that answers prompts, which is what `text/regeneration.py` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from ..text.answers import Answer
from .engine import Engine
from .sampling import key_of


class EmbeddedAnswerer:
    """The engine of this package, with a drafter or without; every call has its own seed."""

    def __init__(self, engine: Engine, max_new_tokens: int) -> None:
        self.engine, self.max_new_tokens = engine, max_new_tokens

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Answer]:
        answers = []
        seeds = [key_of(seed, i) for i in range(len(prompts))]
        for generation in self.engine.generate(prompts, self.max_new_tokens, seeds=seeds):
            written = generation.tokens[:-1] if generation.stopped else generation.tokens
            text = self.engine.target.chat.decode(written)
            answers.append(Answer(text, len(generation.tokens), generation.stopped, tuple(written)))
        return answers
