"""Functions of lists of words and of lists of either kind: search, join, reverse, count, cut, pair."""

from __future__ import annotations

import random
from typing import Any

from .base import ITEMS
from .code_draws import ANY, WORDS, repeated, some, things
from .code_task import Args, Lines, Task


def position(entries: list[Any], target: Any) -> Lines:
    """The index of the first occurrence."""
    for i, entry in enumerate(entries):
        yield f"index {i}: {entry!r} == {target!r} is {entry == target}"
        if entry == target:
            return
    yield "the loop ends without a match"


def wanted(rng: random.Random) -> Args:
    """A list and an entry that is mostly in it."""
    entries: list[Any] = list(some(rng) if rng.random() < 0.5 else things(rng))
    spare = rng.randint(1, 20) if isinstance(entries[0], int) else rng.choice(ITEMS)
    return entries, (rng.choice(entries) if rng.random() < 0.8 else spare)


def join(words: list[str], separator: str) -> Lines:
    """Join words by a separator."""
    text = words[0]
    yield f"start with {text!r}"
    for word in words[1:]:
        text += separator + word
        yield f"add {separator!r} and {word!r}: {text!r}"


def reverse(entries: list[Any]) -> Lines:
    """Reverse a list."""
    result: list[Any] = []
    for entry in entries:
        result.insert(0, entry)
        yield f"insert {entry!r} at the front: {result}"


def count_same(entries: list[Any], target: Any) -> Lines:
    """Count an entry."""
    count = 0
    for entry in entries:
        count += entry == target
        yield f"{entry!r} == {target!r} is {entry == target}: count = {count}"


def unique(entries: list[Any]) -> Lines:
    """Drop repeated entries."""
    seen: list[Any] = []
    for entry in entries:
        if entry in seen:
            yield f"{entry!r} is there already, skip it"
        else:
            seen.append(entry)
            yield f"{entry!r} is new: {seen}"


def cut(kind: str) -> Task:
    """The first (or last) k entries."""

    def trace(entries: list[Any], k: int) -> Lines:
        yield f"the list has {len(entries)} elements"
        left = len(entries) - k
        yield f"keep the {kind} {k} and drop the other {len(entries)} - {k} = {left}"
        drop = entries[k:] if kind == "first" else entries[:left]
        yield f"dropped: {drop}"

    def draw(rng: random.Random) -> Args:
        entries: list[Any] = list(some(rng, 1, 30, 4) if rng.random() < 0.5 else things(rng, 4))
        return entries, rng.randint(1, 3)

    return Task(
        names=f"{kind}_few take_{kind} {kind}_part {kind}_items",
        params=(ANY, "k count size amount"),
        what=f"a list of the {kind} `$q` elements of `$p`",
        body="return $p[:$q]" if kind == "first" else "return $p[-$q:]",
        how=f"The slice keeps the {kind} `$q` elements in their order and drops the rest.",
        draw=draw,
        trace=trace,
    )


def pair_up(left: list[Any], right: list[Any]) -> Lines:
    """Pairs of entries."""
    for a, b in zip(left, right, strict=True):
        yield f"{a!r} goes with {b!r}: {(a, b)}"
    yield "collect the pairs in a list"


def count_draw(rng: random.Random) -> Args:
    """A list with repeats and one of its entries."""
    entries = repeated(rng)
    return entries, rng.choice(entries)


LIST_TASKS = (
    cut("first"),
    cut("last"),
    Task(
        names="find_index index_of position find",
        params=(ANY, "target wanted goal"),
        what="the index of the first element of `$p` equal to `$q`, or -1 if there is none",
        body="for i, $x in enumerate($p):\n    if $x == $q:\n        return i\nreturn -1",
        how="The loop compares one element after another and stops at the first match.",
        draw=wanted,
        trace=position,
    ),
    Task(
        names="join_words join_with join_all glue",
        params=(WORDS, "separator sep mark"),
        what="the words in `$p` joined by `$q`",
        body="return $q.join($p)",
        how="The method `join` puts `$q` between the words but not at the ends.",
        draw=lambda rng: (things(rng, 3, 4), rng.choice(["-", "+", "/", "_", ", ", " and "])),
        trace=join,
    ),
    Task(
        names="reverse_list reversed_copy backwards flip",
        params=(ANY,),
        what="a list with the elements of `$p` in reverse order",
        body="result = []\nfor $x in $p:\n    result.insert(0, $x)\nreturn result",
        how="Each element is inserted at the front, so the last element ends up first.",
        draw=lambda rng: (some(rng, 1, 30) if rng.random() < 0.5 else things(rng),),
        trace=reverse,
    ),
    Task(
        names="count_same count_of how_often times_seen",
        params=(ANY, "target wanted goal"),
        what="how many elements of `$p` are equal to `$q`",
        body="count = 0\nfor $x in $p:\n    if $x == $q:\n        count += 1\nreturn count",
        how="The counter grows by 1 whenever an element equals `$q`.",
        draw=count_draw,
        trace=count_same,
    ),
    Task(
        names="unique distinct remove_repeats without_repeats",
        params=(ANY,),
        what="the elements of `$p` without repeats, in their first order",
        body="seen = []\nfor $x in $p:\n    if $x not in seen:\n        seen.append($x)\nreturn seen",
        how="An element is appended only if it is not in `seen` yet.",
        draw=lambda rng: (repeated(rng),),
        trace=unique,
    ),
    Task(
        names="pair_up pairs zip_lists make_pairs",
        params=(WORDS, "others partners amounts"),
        what="a list of pairs, one element of `$p` with one of `$q`",
        body="return list(zip($p, $q))",
        how="The built-in `zip` takes one element from each list at a time.",
        draw=lambda rng: (things(rng, 3, 3), some(rng, 1, 20, 3, 3)),
        trace=pair_up,
    ),
)
