"""Pieces of code to be read: what do they print?"""

from __future__ import annotations

import random
from collections.abc import Callable

from .code_draws import DICTS, stock
from .code_task import SNIPPET_ANSWER, SNIPPET_PROMPTS, Args, Lines, Task


def snippet(
    name: str,
    params: tuple[str, ...],
    body: str,
    call: str,
    how: str,
    draw: Callable[[random.Random], Args],
    trace: Callable[..., Lines],
) -> Task:
    """A piece of code given in the prompt; `call` is what it prints, and no text mentions `name`."""
    return Task(
        names=name,
        params=params,
        what="",
        body=body,
        how=how,
        draw=draw,
        trace=trace,
        call=call,
        prompts=SNIPPET_PROMPTS,
        answer=SNIPPET_ANSWER,
    )


def stack(a: int, b: int, c: int) -> Lines:
    """Push, push, pop, push."""
    yield f"append {a}: $p = {[a]}"
    yield f"append {b}: $p = {[a, b]}"
    yield f"pop takes {b} off: $p = {[a]}"
    yield f"append {c}: $p = {[a, c]}"


def branch(a: int, b: int) -> Lines:
    """An if-else."""
    yield f"$p = {a}"
    yield f"{a} > {b} is {a > b}, so the {'first' if a > b else 'second'} branch runs"
    yield f"$p = {a} - {b} = {a - b}" if a > b else f"$p = {a} + {b} = {a + b}"


def doubling(a: int, b: int) -> Lines:
    """A while loop."""
    while a < b:
        yield f"{a} < {b} is True: $p = {a} * 2 = {a * 2}"
        a *= 2
    yield f"{a} < {b} is False, so the loop ends"


def updates(table: dict[str, int], key: str, amount: int) -> Lines:
    """Change one value of a dictionary."""
    yield f"$p starts as {table}"
    yield f"the value of {key!r} is {table[key]}"
    yield f"{table[key]} + {amount} = {table[key] + amount}"
    yield "the other value stays the same"


def updates_draw(rng: random.Random) -> Args:
    """A dictionary, one of its keys and an amount."""
    table = stock(rng, 2)
    return table, rng.choice(list(table)), rng.randint(1, 12)


SNIPPET_TASKS = (
    snippet(
        name="read_stack",
        params=("stack pile items tower",),
        body="$p = []\n$p.append($a)\n$p.append($b)\n$p.pop()\n$p.append($c)",
        call="$p",
        how="The list is used as a stack: `append` puts a number on top and `pop` takes the top number off.",
        draw=lambda rng: tuple(rng.sample(range(1, 31), 3)),
        trace=stack,
    ),
    snippet(
        name="read_branch",
        params=("x value n total",),
        body="$p = $a\nif $p > $b:\n    $p = $p - $b\nelse:\n    $p = $p + $b",
        call="$p",
        how="Only one of the two branches runs, and the test decides which one it is.",
        draw=lambda rng: tuple(rng.sample(range(1, 40), 2)),
        trace=branch,
    ),
    snippet(
        name="read_doubling",
        params=("x value n total size y",),
        body="$p = $a\nwhile $p < $b:\n    $p = $p * 2",
        call="$p",
        how="The loop doubles `$p` again and again until it is no longer below the limit.",
        draw=lambda rng: (a := rng.randint(1, 9), a * 2 + rng.randint(1, a * 6)),
        trace=doubling,
    ),
    snippet(
        name="read_update",
        params=(DICTS,),
        body="$p = $a\n$p[$b] = $p[$b] + $c",
        call="$p",
        how="The second line reads one value, adds to it, and stores the sum under the same key.",
        draw=updates_draw,
        trace=updates,
    ),
)
