"""Generated conversations with worked, checked answers: what the shipped target learns and is examined on."""

from __future__ import annotations

import random
from collections.abc import Iterator

from . import chat, code, math
from .base import Example, Template, is_held_out, is_right, last_line

FAMILIES: dict[str, tuple[Template, ...]] = {
    "math": math.TEMPLATES,
    "code": code.TEMPLATES,
    "chat": chat.TEMPLATES,
}


def examples(family: str, seed: int, held_out: bool) -> Iterator[tuple[str, Example]]:
    """An endless stream of (template name, example), each template in turn; held-out prompts or training prompts."""
    rng = random.Random(f"{family}/{seed}")
    while True:
        for template in FAMILIES[family]:
            example = template(rng)
            while is_held_out(example.prompt) != held_out:
                example = template(rng)
            yield template.__name__, example


__all__ = ["FAMILIES", "Example", "examples", "is_held_out", "is_right", "last_line"]
