"""OpenAI's replies: chat completions and completions, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..decoding.logprobs import Logprob
from ..text.detokenize import token_text
from .growing_answer import Piece


class ChatReply:
    """Everything that one request for a chat completion is answered with."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.base = {"id": self.prefix + uuid.uuid4().hex, "created": int(time.time()), "model": model}

    def whole(self, pieces: Sequence[Sequence[Piece]], usage: dict[str, Any]) -> dict[str, Any]:
        """The reply with all answers, each in its pieces."""
        choices = [self.choice(answer) for answer in pieces]
        return {
            **self.base,
            "object": self.kind,
            "choices": choices,
            "usage": usage,
            **extension(list(chain.from_iterable(pieces))),
        }

    def chunk(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A chunk of a stream; without pieces it has no choices."""
        choices = [self.delta(piece) for piece in pieces]
        return {**self.base, "object": self.chunk_kind, "choices": choices, **extension(pieces)}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream begins with for an answer, if anything."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self.base, "object": self.chunk_kind, "choices": [choice]}

    def choice(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        return {
            "index": pieces[0].index,
            "message": message,
            "logprobs": self.logprobs(pieces),
            "finish_reason": pieces[-1].reason,
        }

    def delta(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": self.logprobs([piece]),
            "finish_reason": piece.reason,
        }

    def logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        found = [one for piece in pieces for one in piece.logprobs]
        if not found:
            return None
        content = [
            {
                **self.token(one.token, one.value),
                "top_logprobs": [self.token(token, value) for token, value in one.top],
            }
            for one in found
        ]
        return {"content": content, "refusal": None}

    def token(self, token: int, value: float) -> dict[str, Any]:
        text, characters = token_text(self.tokenizer, token)
        return {"token": text, "logprob": value, "bytes": characters}


class CompletionReply(ChatReply):
    """The same for a completion, whose chunks look like the whole."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl-"

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(model, tokenizer)
        self._offsets: dict[int, int] = {}  # characters of each answer so far

    def opening(self, index: int) -> None:
        return None

    def choice(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "index": pieces[0].index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self.logprobs(pieces),
            "finish_reason": pieces[-1].reason,
        }

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self.choice([piece])

    def logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        found: list[Logprob] = [one for piece in pieces for one in piece.logprobs]
        if not found:
            return None
        texts = [token_text(self.tokenizer, one.token)[0] for one in found]
        offset, offsets = self._offsets.get(pieces[0].index, 0), list[int]()
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[pieces[0].index] = offset
        top = [by_text(self.tokenizer, one.top) for one in found]
        values = [one.value for one in found]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}


def by_text(tokenizer: PreTrainedTokenizerBase, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Log-probabilities by text, likeliest first; of tokens with the same text (parts of a character) the likeliest."""
    found: dict[str, float] = {}
    for token, value in top:
        found.setdefault(token_text(tokenizer, token)[0], value)
    return found


def extension(pieces: Sequence[Piece]) -> dict[str, Any]:
    """`paradraft` in a reply: the rounds, where they were asked for."""
    rounds = [{"index": piece.index, **piece.round} for piece in pieces if piece.round is not None]
    return {"paradraft": {"rounds": rounds}} if rounds else {}
