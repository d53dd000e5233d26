"""Functions of single values: branches, formulas, small loops."""

from __future__ import annotations

from .base import NAMES
from .code_task import Lines, Task

PLACES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin", "Madrid", "Dublin", "Vienna")


def clamp(value: int, low: int, high: int) -> Lines:
    """Clamp a value."""
    yield f"{value} < {low} is {value < low}"
    if value < low:
        yield f"so the lower end {low} is returned"
        return
    yield f"{value} > {high} is {value > high}"
    yield f"so the upper end {high} is returned" if value > high else f"so {value} itself is returned"


def distance(a: int, b: int) -> Lines:
    """An absolute difference."""
    yield f"{a} > {b} is {a > b}"
    yield f"so subtract the {'second from the first' if a > b else 'first from the second'}"
    yield f"{max(a, b)} - {min(a, b)} = {abs(a - b)}"


def fizz_buzz(n: int) -> Lines:
    """Fizz-buzz for one number."""
    yield f"{n} % 15 = {n % 15}"
    if n % 15:
        yield f"{n} % 3 = {n % 3}"
        if n % 3:
            yield f"{n} % 5 = {n % 5}"
    zero = not (n % 3 and n % 5)
    yield "the remainder is 0, so this branch is taken" if zero else "no remainder is 0, so the number is used"


def leap(year: int) -> Lines:
    """Leap years."""
    yield f"{year} % 400 == 0 is {year % 400 == 0}"
    if year % 400:
        yield f"{year} % 4 == 0 is {year % 4 == 0}"
        if year % 4 == 0:
            yield f"{year} % 100 != 0 is {year % 100 != 0}"


def fahrenheit(celsius: int) -> Lines:
    """Degrees Celsius to Fahrenheit."""
    yield f"{celsius} * 9 = {celsius * 9}"
    yield f"{celsius * 9} // 5 = {celsius * 9 // 5}"
    yield f"{celsius * 9 // 5} + 32 = {celsius * 9 // 5 + 32}"


def power(base: int, exponent: int) -> Lines:
    """A small power."""
    result = 1
    for i in range(exponent):
        yield f"round {i + 1}: result = {result} * {base} = {result * base}"
        result *= base


def sum_range(start: int, stop: int) -> Lines:
    """A sum over a range."""
    total = 0
    for n in range(start, stop + 1):
        yield f"n = {n}: total = {total} + {n} = {total + n}"
        total += n


def countdown(start: int, stop: int) -> Lines:
    """Count down."""
    for n in range(start, stop - 1, -1):
        yield f"{n} >= {stop}: append {n}"
    yield f"{stop - 1} >= {stop} is False, so the loop ends"


def greet(name: str, place: str) -> Lines:
    """A greeting."""
    yield f"`$p` is {name!r}"
    yield f"`$q` is {place!r}"
    yield "both are put into the text at their places"


VALUE_TASKS = (
    Task(
        names="clamp limit_to keep_between bounded",
        params=("value number x n", "low,high least,most start,stop lower,upper"),
        what="`$p` kept between `$q` and `$r`",
        body="if $p < $q:\n    return $q\nif $p > $r:\n    return $r\nreturn $p",
        how="A value below `$q` is raised to it, and a value above `$r` is lowered to it.",
        draw=lambda rng: (rng.randint(1, 40), rng.randint(5, 15), rng.randint(20, 35)),
        trace=clamp,
    ),
    Task(
        names="distance difference gap abs_diff",
        params=("a,b x,y first,second left,right",),
        what="the absolute difference of `$p` and `$q`",
        body="if $p > $q:\n    return $p - $q\nreturn $q - $p",
        how="The smaller number is subtracted from the larger one, so the result is never negative.",
        draw=lambda rng: tuple(rng.sample(range(1, 60), 2)),
        trace=distance,
    ),
    Task(
        names="fizz_buzz fizzbuzz fizz play_fizz",
        params=("n number value num",),
        what="'FizzBuzz', 'Fizz' or 'Buzz' if `$p` is a multiple of 15, 3 or 5, else the number as text",
        body="if $p % 15 == 0:\n    return 'FizzBuzz'\nif $p % 3 == 0:\n    return 'Fizz'\n"
        "if $p % 5 == 0:\n    return 'Buzz'\nreturn str($p)",
        how="The multiples of 15 are tested first, because they are multiples of 3 and 5 too.",
        draw=lambda rng: (rng.randint(1, 100),),
        trace=fizz_buzz,
    ),
    Task(
        names="is_leap leap_year is_leap_year leap",
        params=("year y date_year",),
        what="whether `$p` is a leap year",
        body="if $p % 400 == 0:\n    return True\nreturn $p % 4 == 0 and $p % 100 != 0",
        how="A leap year is a multiple of 4. Multiples of 100 do not count unless they are multiples of 400.",
        draw=lambda rng: (rng.randrange(1800, 2401, rng.choice([1, 4, 100])),),
        trace=leap,
    ),
    Task(
        names="to_fahrenheit fahrenheit c_to_f convert_celsius from_celsius",
        params=("celsius degrees temp c heat",),
        what="the temperature `$p` in degrees Fahrenheit, given degrees Celsius",
        body="return $p * 9 // 5 + 32",
        how="The value is multiplied by 9, divided by 5, and then 32 is added.",
        draw=lambda rng: (rng.randrange(0, 205, 5),),
        trace=fahrenheit,
    ),
    Task(
        names="power raise_to to_the_power pow_loop",
        params=("base number x", "exponent times n"),
        what="`$p` raised to the power `$q`",
        body="result = 1\nfor _ in range($q):\n    result *= $p\nreturn result",
        how="The result starts at 1 and is multiplied by `$p` once in every round.",
        draw=lambda rng: rng.choice([(b, e) for b in range(2, 11) for e in range(2, 6) if b**e <= 256 or b == 10]),
        trace=power,
    ),
    Task(
        names="sum_range sum_between add_up total_between",
        params=("start,stop first,last low,high a,b",),
        what="the sum of the whole numbers from `$p` to `$q`",
        body="total = 0\nfor n in range($p, $q + 1):\n    total += n\nreturn total",
        how="The range ends at `$q + 1` so that `$q` itself is added too.",
        draw=lambda rng: (s := rng.randint(1, 25), s + rng.randint(2, 4)),
        trace=sum_range,
    ),
    Task(
        names="countdown count_down down_to falling",
        params=("start,stop high,low top,bottom a,b",),
        what="a list that counts down from `$p` to `$q`",
        body="result = []\nwhile $p >= $q:\n    result.append($p)\n    $p -= 1\nreturn result",
        how="The loop appends the number and makes it smaller by 1 until it is below `$q`.",
        draw=lambda rng: ((s := rng.randint(1, 40)) + rng.randint(2, 5), s),
        trace=countdown,
    ),
    Task(
        names="greet greeting welcome make_greeting",
        params=("name person guest", "place city town"),
        what="a greeting that welcomes `$p` to `$q`",
        body="return f'Hello {$p}, welcome to {$q}!'",
        how="The f-string replaces each pair of braces by the value of the name inside.",
        draw=lambda rng: (rng.choice(NAMES), rng.choice(PLACES)),
        trace=greet,
    ),
)
