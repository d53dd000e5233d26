"""What every generated family shares: the example, the split into training and held-out prompts, the check.

A *template* is a function `template(rng) -> Example`. A family is a tuple of templates. Everything a template
does is determined by the random generator it is given, and its worked answer is computed, never typed in.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

HELD_OUT_SHARE = 20  # one prompt in twenty never enters training text, whatever the seed


@dataclass(frozen=True)
class Example:
    """One prompt with its worked answer; `final` is the checked result and stands in the answer's last line."""

    prompt: str
    answer: str
    final: str


Template = Callable[[random.Random], Example]


def is_held_out(prompt: str) -> bool:
    """The split is a property of the prompt's text, so no choice of seed can leak a held-out prompt."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


def last_line(text: str) -> str:
    """The last line of an answer that is neither empty nor a code fence."""
    lines = [line.strip() for line in text.strip().splitlines()]
    lines = [line for line in lines if line and not line.startswith("```")]
    return lines[-1] if lines else ""


def is_right(answer: str, final: str) -> bool:
    """Whether the last line of `answer` gives `final` as a whole word (not as part of a longer number or word)."""
    line = last_line(answer)
    start = line.find(final)
    while start >= 0:
        before = line[start - 1] if start else " "
        rest = line[start + len(final) :]
        goes_on = rest[:1].isalnum() or (rest[:1] in (".", ",") and rest[1:2].isdigit())
        if not (before.isalnum() or before in "-.") and not goes_on:
            return True
        start = line.find(final, start + 1)
    return False


def plural(count: int, noun: str) -> str:
    """`1 apple`, `3 apples`, `2 boxes`."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def many(noun: str) -> str:
    """`apples`, `boxes`."""
    return plural(2, noun).removeprefix("2 ")


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for word lists that stay readable."""
    return tuple(text.split())


def pairs(text: str) -> dict[str, str]:
    """The dictionary written as `hot:cold big:small`."""
    return dict(entry.split(":") for entry in text.split())


def worked_example(prompt: str, lines: Iterable[str], final: int | str) -> Example:
    """An example from the lines of its answer; checked on the spot, so that no wrong answer is ever trained on."""
    answer = "\n".join(lines)
    assert is_right(answer, str(final)) and answer.isascii() and prompt.isascii()
    return Example(prompt, answer, str(final))


NAMES = words(
    "Ada Alan Amir Anna Ben Carla Chen Clara Dan Diego Elena Emma Eric Farah Felix Grace Hana Hugo Ines Ivan "
    "Jack Jane Jonas Julia Kai Karim Kate Lara Leo Lena Liam Lucy Maria Mark Maya Mei Mia Milo Nadia Nina Noah "
    "Nora Olga Omar Oscar Paul Petra Priya Rosa Ruth Sam Sara Sofia Tariq Theo Tim Tom Vera Yara Zoe"
)
ITEMS = words(
    "apple pear plum lemon orange book pencil marble card coin stamp shell button bead sticker ticket cookie "
    "muffin flower rose tulip candle cup plate spoon ball kite hat scarf sock toy block brick tile rock seed"
)
