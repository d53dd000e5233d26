"""Names of parameters and random arguments that several code tasks use."""

from __future__ import annotations

import random
from typing import Any

from .base import ITEMS
from .code_task import Args

NUMS = "numbers values nums scores prices sizes"
WORDS = "words names labels items"
ANY = "items things entries elements group"
DICTS = "table mapping stock prices"


def some(rng: random.Random, low: int = 1, high: int = 20, least: int = 3, most: int = 5) -> list[int]:
    """A short list of different small numbers."""
    return rng.sample(range(low, high + 1), rng.randint(least, most))


def things(rng: random.Random, least: int = 3, most: int = 5) -> list[str]:
    """A short list of different words."""
    return rng.sample(ITEMS, rng.randint(least, most))


def stock(rng: random.Random, size: int) -> dict[str, int]:
    """A small dictionary from words to different numbers."""
    return dict(zip(rng.sample(ITEMS, size), rng.sample(range(1, 21), size), strict=True))


def nums_only(rng: random.Random) -> Args:
    """The arguments of a function of one list of numbers."""
    return (some(rng),)


def repeated(rng: random.Random) -> list[Any]:
    """Four or five entries, numbers or words, among which some occur twice."""
    pool: list[Any] = rng.sample(range(1, 10), 3) if rng.random() < 0.5 else list(rng.sample(ITEMS, 3))
    entries = [*pool, *rng.sample(pool, rng.randint(1, 2))]
    rng.shuffle(entries)
    return entries
