"""Functions of dictionaries: look up, merge, swap."""

from __future__ import annotations

import random

from .base import ITEMS
from .code_draws import DICTS, stock
from .code_task import Args, Lines, Task


def look_up(table: dict[str, int], key: str, default: int) -> Lines:
    """Look a key up."""
    yield f"the keys are {', '.join(map(repr, table))}"
    yield f"{key!r} in `$p` is {key in table}"
    yield f"its value is {table[key]}" if key in table else f"so the default {default} is used"


def look_up_draw(rng: random.Random) -> Args:
    """A dictionary, a key that is mostly in it, and a default."""
    table = stock(rng, 3)
    return table, (rng.choice(list(table)) if rng.random() < 0.65 else rng.choice(ITEMS)), rng.choice([0, -1])


def merge(first: dict[str, int], second: dict[str, int]) -> Lines:
    """Merge two dictionaries."""
    result = dict(first)
    yield f"copy the first: {result}"
    for key, value in second.items():
        note = "replaces" if key in result else "adds"
        result[key] = value
        yield f"{key!r} {note} a value: {result}"


def merge_draw(rng: random.Random) -> Args:
    """Two dictionaries that sometimes share a key."""
    first, second = stock(rng, 2), stock(rng, 2)
    if rng.random() < 0.5:
        second = {rng.choice(list(first)): rng.randint(1, 20), **dict([second.popitem()])}
    return first, second


def swap_keys(table: dict[str, int]) -> Lines:
    """Swap keys and values."""
    for key, value in table.items():
        yield f"{key!r}: {value} becomes {value}: {key!r}"


DICT_TASKS = (
    Task(
        names="look_up value_of get_value fetch",
        params=(DICTS, "key entry item", "default fallback"),
        what="the value of `$q` in the dictionary `$p`, or `$r` if it is missing",
        body="return $p.get($q, $r)",
        how="The method `get` gives the value of the key if it is there and `$r` if it is not.",
        draw=look_up_draw,
        trace=look_up,
    ),
    Task(
        names="merge combine merge_dicts join_dicts",
        params=("first,second old,new base,extra left,right",),
        what="one dictionary with the entries of `$p` and `$q`",
        body="result = dict($p)\nresult.update($q)\nreturn result",
        how="The entries of `$q` are put into a copy of `$p`. For a shared key the value from `$q` wins.",
        draw=merge_draw,
        trace=merge,
    ),
    Task(
        names="swap_keys invert flip_dict invert_dict",
        params=(DICTS,),
        what="the dictionary `$p` with keys and values swapped",
        body="return {value: key for key, value in $p.items()}",
        how="The dictionary comprehension goes through the entries and puts the value in front of the key.",
        draw=lambda rng: (stock(rng, rng.randint(2, 3)),),
        trace=swap_keys,
    ),
)
