"""Prompt sets: questions in any shape that training data has; a hash shows whether two sets are equal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..models.names import is_shipped, prompt_file
from ..text.conversations import Message, turns_of
from ..text.sources import read_source
from .public_prompts import PUBLIC, fetch_turns


@dataclass(frozen=True)
class Prompt:
    """`turns`: the messages before each answer of the target (the user's; before the first also a system message).

    tools: function schemas for the chat template.
    """

    id: str
    turns: tuple[tuple[Message, ...], ...]
    tools: tuple[Any, ...] = ()

    @property
    def question(self) -> str:
        """The user's first words."""
        return str(self.turns[0][-1]["content"])

    def identity(self) -> Any:
        """What the hash covers: all turns and tools, or just the texts if there is nothing else."""
        if all(len(turn) == 1 and turn[0].keys() == {"role", "content"} for turn in self.turns) and not self.tools:
            return [turn[0]["content"] for turn in self.turns]
        return [self.turns, self.tools]


@dataclass(frozen=True)
class PromptSet:
    """source, licence: of a public data set, its Hub id with revision and what its card says."""

    name: str
    prompts: tuple[Prompt, ...]
    source: str | None = None
    licence: str | None = None

    @property
    def turns(self) -> int:
        """How many answers are asked for."""
        return sum(len(prompt.turns) for prompt in self.prompts)

    @property
    def hash(self) -> str:
        """Of all turns in order: 12 hexadecimal digits of SHA-256."""
        text = json.dumps([prompt.identity() for prompt in self.prompts], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_prompt_sets(names: Sequence[str], limit: int | None = None) -> list[PromptSet]:
    """`load_prompts` of each. UserError if two sets have one name: results are kept by it."""
    sets = [load_prompts(name, limit) for name in names]
    found = [prompt_set.name for prompt_set in sets]
    for name in found:
        if found.count(name) > 1:
            raise UserError(
                f"two prompt sets are called {name}, so their results would be mixed up; rename one of the files"
            )
    return sets


def load_prompts(name: str, limit: int | None = None) -> PromptSet:
    """A shipped set (`demo:math`), a public one (`gsm8k`) or any source of conversations, or its first `limit` prompts.

    Answers in it are dropped, and the user's turns up to the first tool result are asked. A record that is not a prompt
    is an error.
    """
    if name in PUBLIC:
        prompts = [
            Prompt(f"{name}/{i}", tuple(({"role": "user", "content": turn},) for turn in turns))
            for i, turns in enumerate(fetch_turns(name, limit))
        ]
        return PromptSet(name, tuple(prompts), PUBLIC[name].source, PUBLIC[name].licence)
    path = prompt_file(name)
    reading = read_source(str(path), limit, prompts=True)
    if reading.bad:
        raise UserError(f"{reading.bad[0].place}: {reading.bad[0].reason}")
    prompts = []
    for number, conversation in enumerate(reading.conversations, 1):
        turns = tuple(tuple(turn) for turn in turns_of(conversation))
        if not turns:
            raise UserError(f"{conversation.place}: there is no user message before the first tool result")
        prompts.append(Prompt(conversation.id or str(number), turns, conversation.tools))
    if not prompts:
        raise UserError(f'prompt file {path} is empty; give one JSON object a line, such as {{"prompt": "..."}}')
    label = name if is_shipped(name) else re.sub(r"\.jsonl?(\.gz)?$", "", path.name)
    return PromptSet(label, tuple(prompts))
