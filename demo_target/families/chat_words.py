"""What the chat templates share: word lists and small helpers for text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .base import words

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("park", "market", "library", "museum", "station", "school", "beach", "harbour", "bakery", "garden")
CITIES = words("Oslo Paris Rome Madrid Vienna Berlin Lisbon Athens Dublin Prague Tokyo Cairo Lima Delhi Boston")
JOBS = ("baker", "teacher", "nurse", "painter", "farmer", "driver", "singer", "gardener", "doctor", "cook")


def clock(minutes: int) -> str:
    """Minutes after midnight as `08:05`."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def listing(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def with_article(noun: str) -> str:
    """`a pear`, `an apple`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def numbered(parts: Iterable[str]) -> list[str]:
    """`1. first`, `2. second`: the lines of a numbered list."""
    return [f"{number}. {part}" for number, part in enumerate(parts, 1)]


def running_sum(numbers: Sequence[int]) -> str:
    """`4 + 5 = 9, 9 + 3 = 12`: a sum with every intermediate result."""
    total, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return ", ".join(steps)
