"""Looping answers: trivially drafted, so training leaves them out and every emitted length is told without them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from .render import Rendered

LOOPING_BELOW = 0.6


def distinct_share(tokens: Sequence[int], n: int = 4) -> float:
    """Distinct n-grams / n-grams; 1.0 for a text shorter than n + 1."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def is_looping(tokens: Sequence[int]) -> bool:
    return distinct_share(tokens) < LOOPING_BELOW


def has_looping_answer(example: Rendered) -> bool:
    """Whether any one of the answers that are learned in it loops."""
    runs = groupby(zip(example.input_ids, example.loss_mask, strict=True), key=lambda token: token[1])
    return any(is_looping([token for token, _ in run]) for learned, run in runs if learned)
