"""Conversations to token ids and a loss mask, by the target's own chat template.

What the target wrote is found as the *difference of two renders*: the history with the generation prompt against
the history with the answer. Nothing is guessed from template names, and training, evaluation and generation
share these functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .conversations import Message


@dataclass(frozen=True)
class Rendered:
    """Token ids of a conversation and, for each, whether the target wrote it."""

    input_ids: list[int]
    loss_mask: list[bool]


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Short hash of the chat template, "none" where there is none; it travels with every result."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest()[:12] if template else "none"


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Ids the target answers: the history with the generation prompt, or bare text without a chat template."""
    return encode(tokenizer, _text(tokenizer, messages, answer_next=True))


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], stop_tokens: frozenset[int]
) -> list[Rendered]:
    """Ids and mask of a conversation; an answer ends with its stop token, template text behind that is not learned.

    Usually one example. Where the template renders earlier turns differently once the conversation goes on (as
    those do that drop old thoughts), every answer becomes an example of its own, behind the history it was given.
    """
    examples: list[Rendered] = []
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _text(tokenizer, messages[:i], answer_next=True)
        answered = _text(tokenizer, messages[: i + 1], answer_next=False)
        if not answered.startswith(asked):
            raise UserError(
                f"the chat template is unstable: message {i + 1} does not simply follow the rendered history, so what "
                "the target wrote cannot be told from the template's own text"
            )
        goes_on = bool(examples) and asked.startswith(done)
        prompt_ids = encode(tokenizer, asked[len(done) :] if goes_on else asked)
        answer_ids = encode(tokenizer, answered[len(asked) :])
        stops = [n for n, token in enumerate(answer_ids) if token in stop_tokens]
        written = stops[-1] + 1 if stops else len(answer_ids)
        before = examples.pop() if goes_on else Rendered([], [])
        mask = [False] * len(prompt_ids) + [n < written for n in range(len(answer_ids))]
        examples.append(Rendered(before.input_ids + prompt_ids + answer_ids, before.loss_mask + mask))
        done = answered
    return examples


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of already rendered text, nothing added."""
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except TypeError:
        raise UserError("a text holds half of a surrogate pair, which is no character; mend it") from None
    return ids


def _text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer_next: bool) -> str:
    if not tokenizer.chat_template:
        return "\n\n".join(message["content"] for message in messages) + ("\n\n" if answer_next else "")
    try:
        rendered: Any = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)
    except Exception as error:  # templates raise their own Jinja errors
        raise UserError(f"the chat template refuses this conversation: {error}") from None
    return str(rendered)
