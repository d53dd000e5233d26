"""Answers that repeat themselves. They are drafted without effort: training leaves them out, and results say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from .render import Rendered

LOOPING_BELOW = 0.6  # distinct share
TRIMMED_TO = 0.8  # distinct share of what is kept; that of most answers is higher
GRAM = 4  # tokens


def grams_of(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]


def distinct_share(tokens: Sequence[int]) -> float:
    """Distinct 4-grams / 4-grams; 1.0 for a text shorter than 5."""
    grams = grams_of(tokens)
    return len(set(grams)) / len(grams) if grams else 1.0


def is_looping(tokens: Sequence[int]) -> bool:
    return distinct_share(tokens) < LOOPING_BELOW


def before_loop(tokens: Sequence[int]) -> int:
    """Length of the longest beginning whose distinct share is TRIMMED_TO or more."""
    seen: set[tuple[int, ...]] = set()
    longest = 0
    for count, gram in enumerate(grams_of(tokens), 1):
        seen.add(gram)
        if len(seen) >= TRIMMED_TO * count:
            longest = count + GRAM - 1
    return longest


def answers_of(example: Rendered) -> Iterator[tuple[int, Sequence[int]]]:
    """Where each answer that is learned begins, and its tokens."""
    start = 0
    ids = example.input_ids.tolist()
    for learned, run in groupby(example.loss_mask.tolist()):
        end = start + len(list(run))
        if learned:
            yield start, ids[start:end]
        start = end


def has_looping_answer(example: Rendered) -> bool:
    """Whether any one of the answers that are learned in it loops."""
    return any(is_looping(answer) for _, answer in answers_of(example))


def trimmed(examples: Sequence[Rendered]) -> list[Rendered]:
    """A conversation's examples up to where its first looping answer begins to repeat itself."""
    for number, example in enumerate(examples):
        for start, answer in answers_of(example):
            if is_looping(answer):
                end = start + before_loop(answer)
                return [*examples[:number], Rendered(example.input_ids[:end], example.loss_mask[:end])]
    return list(examples)
