"""The steps that worked arithmetic is made of, each a line of text with its result."""

from __future__ import annotations

import random

from .base import NAMES


def add(a: int, b: int) -> str:
    """A sum, by the tens and then the ones of the second number."""
    tens, ones = b - b % 10, b % 10
    if not tens or not ones:
        return f"{a} + {b} = {a + b}"
    return f"{a} + {b} = {a} + {tens} + {ones} = {a + tens} + {ones} = {a + b}"


def sub(a: int, b: int) -> str:
    """A difference that is not negative, by the tens and then the ones of the second number."""
    assert a >= b
    tens, ones = b - b % 10, b % 10
    if not tens or not ones:
        return f"{a} - {b} = {a - b}"
    return f"{a} - {b} = {a} - {tens} - {ones} = {a - tens} - {ones} = {a - b}"


def div(a: int, b: int) -> str:
    """A division without remainder, with the product that proves it."""
    assert a % b == 0
    return f"{a} / {b} = {a // b}, because {b} x {a // b} = {a}"


def two_names(rng: random.Random) -> tuple[str, str]:
    """Two different people."""
    one, two = rng.sample(NAMES, 2)
    return one, two
