"""Looping outputs: trivially drafted, so every emitted length is reported with and without them."""

from __future__ import annotations

from collections.abc import Sequence

LOOPING_BELOW = 0.6


def distinct_share(tokens: Sequence[int], n: int = 4) -> float:
    """Distinct n-grams / n-grams; 1.0 for a text shorter than n + 1."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def is_looping(tokens: Sequence[int]) -> bool:
    return distinct_share(tokens) < LOOPING_BELOW
