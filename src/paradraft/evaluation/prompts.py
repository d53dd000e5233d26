"""Prompt sets: JSONL files of questions, hashed so that two results are known to be about the same text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assets import prompt_file
from ..data.conversations import read_records
from ..errors import UserError


@dataclass(frozen=True)
class Prompt:
    """`turns`: the user's messages, asked one after the other with the target's answers in between."""

    id: str
    turns: tuple[str, ...]


@dataclass(frozen=True)
class PromptSet:
    name: str
    prompts: tuple[Prompt, ...]

    @property
    def hash(self) -> str:
        """Of all turns in order: 12 hexadecimal digits of SHA-256."""
        text = json.dumps([prompt.turns for prompt in self.prompts], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def turns_of(record: Any, place: str) -> tuple[str, ...]:
    """The user turns of a record: `turns`, `prompt`, or the user messages before the first answer."""
    if isinstance(record, dict):
        turns = record.get("turns")
        if turns is None and isinstance(record.get("prompt"), str):
            turns = [record["prompt"]]
        if turns is None and isinstance(record.get("messages"), list):
            messages = [m for m in record["messages"] if isinstance(m, dict)]
            turns = [m.get("content") for m in messages if m.get("role") == "user"][:1]
        if isinstance(turns, list) and turns and all(isinstance(turn, str) and turn.strip() for turn in turns):
            return tuple(turns)
    raise UserError(f'{place}: a prompt needs "turns" (a list of texts), "prompt" or "messages", none of them empty')


def load_prompts(name: str, limit: int | None = None) -> PromptSet:
    """A shipped set (`demo:math`) or a JSONL file (.gz too), whole or its first `limit` prompts."""
    path: Path = prompt_file(name)
    prompts = []
    for number, record in read_records(path):
        turns = turns_of(record, f"{path}, line {number}")
        prompts.append(Prompt(str(record.get("id", number)), turns))
        if limit is not None and len(prompts) == limit:
            break
    if not prompts:
        raise UserError(f'prompt file {path} is empty; give one JSON object a line, such as {{"prompt": "..."}}')
    label = name if name.startswith("demo:") else path.name.removesuffix(".gz").removesuffix(".jsonl")
    return PromptSet(label, tuple(prompts))
