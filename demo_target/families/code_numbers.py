"""Functions of a list of numbers: sums, filters, extremes, running totals, tests."""

from __future__ import annotations

import random
from collections.abc import Callable

from .code_draws import NUMS, nums_only, some
from .code_task import Args, Lines, Task


def parity(number: int) -> str:
    """`even` or `odd`."""
    return "odd" if number % 2 else "even"


def sum_if(kind: str) -> Task:
    """The sum of the even (or odd) numbers."""

    def trace(numbers: list[int]) -> Lines:
        total = 0
        for n in numbers:
            if parity(n) == kind:
                yield f"{n} is {kind}: total = {total} + {n} = {total + n}"
                total += n
            else:
                yield f"{n} is {parity(n)}: total stays {total}"

    rest = "0" if kind == "even" else "1"
    return Task(
        names=f"sum_{kind} {kind}_sum total_{kind} add_{kind} sum_of_{kind}",
        params=(NUMS,),
        what=f"the sum of the {kind} numbers in `$p`",
        body=f"total = 0\nfor $x in $p:\n    if $x % 2 == {rest}:\n        total += $x\nreturn total",
        how=f"The loop adds each {kind} number to `total` and skips the others.",
        draw=nums_only,
        trace=trace,
    )


def keep_if(kind: str) -> Task:
    """The even (or odd) numbers of a list."""

    def trace(numbers: list[int]) -> Lines:
        kept: list[int] = []
        for n in numbers:
            if parity(n) == kind:
                kept.append(n)
                yield f"{n} is {kind}, keep it: {kept}"
            else:
                yield f"{n} is {parity(n)}, skip it"

    rest = "0" if kind == "even" else "1"
    return Task(
        names=f"only_{kind} keep_{kind} {kind}_only filter_{kind} select_{kind}",
        params=(NUMS,),
        what=f"a list of the {kind} numbers in `$p`",
        body=f"return [$x for $x in $p if $x % 2 == {rest}]",
        how=f"The list comprehension keeps a number only when its remainder after division by 2 is {rest}.",
        draw=nums_only,
        trace=trace,
    )


def count_above(numbers: list[int], limit: int) -> Lines:
    """Count the numbers above a limit."""
    count = 0
    for n in numbers:
        count += n > limit
        yield f"{n} > {limit} is {n > limit}: count = {count}"


def best(word: str, better: Callable[[int, int], bool]) -> Task:
    """The largest (or smallest) number, by a loop."""
    sign = ">" if better(2, 1) else "<"

    def trace(numbers: list[int]) -> Lines:
        top = numbers[0]
        yield f"start with best = {top}"
        for n in numbers[1:]:
            if better(n, top):
                yield f"{n} {sign} {top} is True: best = {n}"
                top = n
            else:
                yield f"{n} {sign} {top} is False: best stays {top}"

    return Task(
        names=f"{word} find_{word} {word}_of {word}_value get_{word}",
        params=(NUMS,),
        what=f"the {word} number in `$p`",
        body=f"best = $p[0]\nfor $x in $p[1:]:\n    if $x {sign} best:\n        best = $x\nreturn best",
        how=f"The variable `best` holds the {word} number seen so far.",
        draw=lambda rng: (some(rng, 1, 60),),
        trace=trace,
    )


def each(names: str, what: str, formula: str, how: str, high: int) -> Task:
    """A list with the same sum or product applied to every number; `formula` such as `$x * 2`."""

    def trace(numbers: list[int]) -> Lines:
        for n in numbers:
            step = formula.replace("$x", str(n))
            yield f"{step} = {eval(step)}"
        yield "collect the results in the same order"

    return Task(
        names=names,
        params=(NUMS,),
        what=what,
        body=f"return [{formula} for $x in $p]",
        how=how,
        draw=lambda rng: (some(rng, 1, high),),
        trace=trace,
    )


def add_to_each(numbers: list[int], amount: int) -> Lines:
    """Add an amount to every number."""
    for n in numbers:
        yield f"{n} + {amount} = {n + amount}"
    yield "collect the results in the same order"


def running(numbers: list[int]) -> Lines:
    """Running totals."""
    total, totals = 0, []
    for n in numbers:
        totals.append(total + n)
        yield f"total = {total} + {n} = {total + n}, result = {totals}"
        total += n


def multiply(numbers: list[int]) -> Lines:
    """The product of a list."""
    product = 1
    for n in numbers:
        yield f"product = {product} * {n} = {product * n}"
        product *= n


def average(numbers: list[int]) -> Lines:
    """The average of a list."""
    total = numbers[0]
    for n in numbers[1:]:
        yield f"{total} + {n} = {total + n}"
        total += n
    yield f"the list has {len(numbers)} numbers"
    yield f"{total} // {len(numbers)} = {total // len(numbers)}"


def even_split(rng: random.Random) -> Args:
    """Three to five numbers whose average is a whole number."""
    while True:
        numbers = some(rng, 1, 15)
        if sum(numbers) % len(numbers) == 0:
            return (numbers,)


def signs(names: str, sign: str, stop: bool) -> Task:
    """`all positive` and `any negative`: a loop that returns early; `stop` is what it then returns."""

    def trace(numbers: list[int]) -> Lines:
        for n in numbers:
            hit = n <= 0 if sign == "<=" else n < 0
            yield f"{n} {sign} 0 is {hit}" + (f", so return {stop}" if hit else "")
            if hit:
                return
        yield f"the loop ends, so return {not stop}"

    def draw(rng: random.Random) -> Args:
        numbers = some(rng)
        if rng.random() < 0.6:
            numbers[rng.randrange(len(numbers))] *= -1
        return (numbers,)

    return Task(
        names=names,
        params=(NUMS,),
        what="whether any number in `$p` is negative" if stop else "whether all numbers in `$p` are positive",
        body=f"for $x in $p:\n    if $x {sign} 0:\n        return {stop}\nreturn {not stop}",
        how=f"The loop stops with {stop} as soon as it finds a number that is {sign} 0. Otherwise it gives {not stop}.",
        draw=draw,
        trace=trace,
    )


NUMBER_TASKS = (
    sum_if("even"),
    sum_if("odd"),
    keep_if("even"),
    keep_if("odd"),
    best("largest", lambda a, b: a > b),
    best("smallest", lambda a, b: a < b),
    each(
        "double_all doubled double_each twice",
        "every number in `$p` doubled",
        "$x * 2",
        "The list comprehension multiplies each number by 2 and keeps the order.",
        20,
    ),
    each(
        "square_all squares square_each squared",
        "the squares of the numbers in `$p`",
        "$x * $x",
        "The list comprehension multiplies each number by itself and keeps the order.",
        12,
    ),
    signs("all_positive every_positive only_positive are_positive", "<=", stop=False),
    signs("any_negative has_negative some_negative contains_negative", "<", stop=True),
    Task(
        names="count_above how_many_above above count_over",
        params=(NUMS, "limit threshold bound"),
        what="how many numbers in `$p` are greater than `$q`",
        body="count = 0\nfor $x in $p:\n    if $x > $q:\n        count += 1\nreturn count",
        how="The counter grows by 1 for every number above `$q`.",
        draw=lambda rng: (some(rng), rng.randint(4, 16)),
        trace=count_above,
    ),
    Task(
        names="add_to_all add_each shift_all raise_all",
        params=(NUMS, "amount step extra"),
        what="a list with `$q` added to every number in `$p`",
        body="return [$x + $q for $x in $p]",
        how="The list comprehension adds `$q` to each number and keeps the order.",
        draw=lambda rng: (some(rng), rng.randint(2, 12)),
        trace=add_to_each,
    ),
    Task(
        names="running_totals running_sum cumulative totals_so_far",
        params=(NUMS,),
        what="the running totals of `$p`",
        body="total = 0\nresult = []\nfor $x in $p:\n    total += $x\n    result.append(total)\nreturn result",
        how="After each number the new total is appended to the list.",
        draw=lambda rng: (some(rng, most=4),),
        trace=running,
    ),
    Task(
        names="multiply_all product_of product multiply_list",
        params=(NUMS,),
        what="the product of the numbers in `$p`",
        body="product = 1\nfor $x in $p:\n    product *= $x\nreturn product",
        how="The variable `product` starts at 1 and is multiplied by each number in turn.",
        draw=lambda rng: ([rng.randint(1, 6) for _ in range(rng.randint(2, 3))],),
        trace=multiply,
    ),
    Task(
        names="average mean average_of mean_of",
        params=(NUMS,),
        what="the average of the numbers in `$p` as a whole number",
        body="return sum($p) // len($p)",
        how="The sum of the numbers is divided by how many there are.",
        draw=even_split,
        trace=average,
    ),
)
