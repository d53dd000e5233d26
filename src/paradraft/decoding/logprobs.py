"""The target's own log-probabilities of the tokens it emitted, for those who ask for them."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Logprob:
    """Natural logarithm of p(token), before temperature, top-k and top-p; `top`: the likeliest tokens with theirs."""

    token: int
    value: float
    top: tuple[tuple[int, float], ...]


def logprobs_of(logits: Tensor, tokens: Tokens[int], count: int, path: Tensor | None = None) -> tuple[Logprob, ...]:
    """Of `tokens` and the `count` likeliest at each, from logits [N+1, V] after each token that was consumed.

    `path` [at least len(tokens)] names the consumed tokens that the emitted ones follow; None: the first ones.
    """
    places = logits[: len(tokens)] if path is None else logits[path[: len(tokens)]]
    found = places.float().log_softmax(-1)
    top = found.topk(min(count, found.shape[-1]), dim=-1)
    return tuple(
        Logprob(token, float(row[token]), tuple(zip(ids, values, strict=True)))
        for token, row, ids, values in zip(tokens, found, top.indices.tolist(), top.values.tolist(), strict=True)
    )
