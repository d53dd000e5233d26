"""Tasks on numbers alone: averages, equations, columns of digits, sequences and rounding."""

from __future__ import annotations

import random

from .base import ITEMS, NAMES, Example, Template, many, worked_example
from .math_steps import add, div, sub


def average(rng: random.Random) -> Example:
    name, kind, n = rng.choice(NAMES), rng.randrange(3), rng.choice((3, 4))
    mean = rng.randint(4, 12)
    while True:
        values = [rng.randint(1, 20) for _ in range(n - 1)]
        values.append(mean * n - sum(values))
        if 1 <= values[-1] <= 20:
            break
    shown = ", ".join(map(str, values[:-1])) + f" and {values[-1]}"
    prompt = (
        f"{name} scores {shown} points in {n} games. What is the average score?",
        f"Find the average of {shown} for {name}.",
        f"On {n} days {name} walks {shown} km. What is the mean distance per day?",
    )[kind]
    lines, total = [f"There are {n} numbers: {shown}.", "Add them one after another."], values[0]
    for value in values[1:]:
        lines.append(f"{total} + {value} = {total + value}")
        total += value
    lines.append(f"Divide the sum by {n}: {div(total, n)}.")
    end = (f"So the average score is {mean}.", f"Answer: the average is {mean}", f"So the mean is {mean} km per day.")
    return worked_example(prompt, [*lines, end[kind]], mean)


def solve(rng: random.Random) -> Example:
    kind, letter, minus = rng.randrange(3), rng.choice("xynkt"), rng.random() < 0.5
    a, x, b = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 30)
    b = min(b, a * x - 1) if minus else b
    c = a * x - b if minus else a * x + b
    equation = f"{a}{letter} {'-' if minus else '+'} {b} = {c}"
    prompt = (f"Solve {equation}.", f"Find {letter} if {equation}.", f"What is the value of {letter} in {equation}?")
    undo = f"Add {b} to both sides: {add(c, b)}" if minus else f"Subtract {b} from both sides: {sub(c, b)}"
    end = (f"Solution: {letter} = {x}", f"So {letter} = {x}.", f"The value of {letter} is {x}.")[kind]
    lines = [
        f"The equation is {equation}.",
        f"{undo}.",
        f"This leaves {a}{letter} = {a * x}.",
        f"Divide both sides by {a}: {div(a * x, a)}.",
        f"Put it back to check: {a * x} {'-' if minus else '+'} {b} = {c}, which is right.",
        end,
    ]
    return worked_example(prompt[kind], lines, x)


def brackets(rng: random.Random) -> Example:
    kind, minus = rng.randrange(3), rng.random() < 0.5
    a, b, c, d = rng.randint(2, 9), rng.randint(3, 9), rng.randint(2, 9), rng.randint(2, 30)
    plus = rng.random() < 0.5 or b <= c
    inner = b + c if plus else b - c
    if inner > 12:
        c -= inner - 12
        inner = 12
    d = min(d, a * inner) if minus else d
    value, sign = (a * inner - d, "-") if minus else (a * inner + d, "+")
    bracket = f"({b} {'+' if plus else '-'} {c})"
    expr = f"{a} x {bracket} {sign} {d}"
    prompt = (f"Work out {expr}.", f"What is {expr}?", f"Evaluate the expression {expr}.")[kind]
    end = (f"Answer: {value}", f"So the value is {value}.", f"The expression equals {value}.")[kind]
    lines = [
        f"Start with the bracket: {bracket[1:-1]} = {inner}.",
        f"Now the expression is {a} x {inner} {sign} {d}.",
        f"Multiply before you {'subtract' if minus else 'add'}: {a} x {inner} = {a * inner}.",
        f"Last, {'take away' if minus else 'add'} {d}: {sub(a * inner, d) if minus else add(a * inner, d)}.",
        end,
    ]
    return worked_example(prompt, lines, value)


def _carry_line(place: str, x: int, y: int, carry: int) -> tuple[str, int]:
    total = x + y + carry
    work = f"{x} + {y} + {carry}" if carry else f"{x} + {y}"
    told = f"write {total % 10} and carry 1" if total > 9 else f"write {total}"
    return f"{place}: {work} = {total}, {told}.", total // 10


def column_add(rng: random.Random) -> Example:
    kind, top = rng.randrange(4), rng.choice((99, 999))
    a, b = (rng.randint(top // 9, top) for _ in range(2))
    prompt = (
        f"Add {a} and {b} in columns.",
        f"What is {a} + {b}? Show the carrying.",
        f"Find the sum of {a} and {b} step by step.",
        f"Use column addition for {a} + {b}.",
    )[kind]
    lines, carry = [f"Write {a} above {b} and add from right to left."], 0
    for i, place in enumerate(("Ones", "Tens", "Hundreds")[: len(str(top))]):
        line, carry = _carry_line(place, a // 10**i % 10, b // 10**i % 10, carry)
        lines.append(line)
    lines.append("The last carry goes in front, so write 1." if carry else "There is no carry left at the front.")
    lines.append("Read the digits from left to right.")
    end = (f"The total is {a + b}.", f"Answer: {a + b}", f"So the sum is {a + b}.", f"The result is {a + b}.")[kind]
    return worked_example(prompt, [*lines, end], a + b)


def _borrow_line(place: str, x: int, y: int, borrow: int) -> tuple[str, int]:
    have = f"{x} - {borrow} = {x - borrow}, then " if borrow else ""
    x -= borrow
    if x >= y:
        return f"{place}: {have}{x} - {y} = {x - y}, write {x - y}.", 0
    return f"{place}: {have}{x} is less than {y}, so borrow: {x + 10} - {y} = {x + 10 - y}, write {x + 10 - y}.", 1


def column_sub(rng: random.Random) -> Example:
    kind, top = rng.randrange(4), rng.choice((99, 999))
    a, b = sorted((rng.randint(top // 9, top) for _ in range(2)), reverse=True)
    b -= a == b
    prompt = (
        f"Subtract {b} from {a} in columns.",
        f"What is {a} - {b}? Show the borrowing.",
        f"Find the difference between {a} and {b} step by step.",
        f"Use column subtraction for {a} - {b}.",
    )[kind]
    lines, borrow = [f"Write {a} above {b} and subtract from right to left."], 0
    for i, place in enumerate(("Ones", "Tens", "Hundreds")[: len(str(top))]):
        line, borrow = _borrow_line(place, a // 10**i % 10, b // 10**i % 10, borrow)
        lines.append(line)
    assert not borrow
    lines.append("Read the digits from left to right and drop zeros at the front.")
    end = (f"This leaves {a - b}.", f"Answer: {a - b}", f"So the difference is {a - b}.", f"The result is {a - b}.")
    return worked_example(prompt, [*lines, end[kind]], a - b)


def long_mul(rng: random.Random) -> Example:
    name, item, kind = rng.choice(NAMES), many(rng.choice(ITEMS)), rng.randrange(3)
    tens, ones, b = rng.randint(1, 9) * 10, rng.randint(1, 9), rng.randint(2, 9)
    a, product = tens + ones, (tens + ones) * b
    prompt = (
        f"{name} orders {b} crates with {a} {item} in each. Multiply {a} x {b} to find the number of {item}.",
        f"What is {a} x {b}? {name} wants to know for {b} piles of {a} {item}.",
        f"Help {name} multiply {a} by {b}, for {b} rows of {a} {item}.",
    )[kind]
    end = (f"So there are {product} {item}.", f"Answer: {product} {item}", f"So the product is {product} {item}.")[kind]
    lines = [
        f"Split {a} into {tens} and {ones}.",
        f"Tens: {tens // 10} x {b} = {tens // 10 * b}, so {tens} x {b} = {tens * b}.",
        f"Ones: {ones} x {b} = {ones * b}.",
        f"Now put both parts together: {add(tens * b, ones * b)}.",
        f"That is {b} times {a}.",
        end,
    ]
    return worked_example(prompt, lines, product)


def sequence(rng: random.Random) -> Example:
    kind, step, first = rng.randrange(3), rng.randint(2, 12), rng.randint(1, 150)
    down = rng.random() < 0.3
    first = first + 6 * step if down else first
    terms = [first + (-step if down else step) * i for i in range(7)]
    shown, tail, sign = ", ".join(map(str, terms[:4])), terms[4:], "-" if down else "+"
    prompt = (
        f"What are the next three terms of {shown}, ...?",
        f"Continue the sequence {shown} with three more numbers.",
        f"Find the rule of {shown} and write the next three numbers.",
    )[kind]
    final = ", ".join(map(str, tail))
    high, low = max(terms[:2]), min(terms[:2])
    lines = [
        "Look at the first two numbers to find the rule.",
        f"{high} - {low} = {step}, so each number is {step} {'less' if down else 'more'} than the one before.",
        *(f"{terms[i]} {sign} {step} = {terms[i + 1]}" for i in (3, 4, 5)),
        "These three results continue the pattern.",
        (f"The next terms are {final}.", f"The sequence goes on with {final}.", f"Answer: {final}")[kind],
    ]
    return worked_example(prompt, lines, final)


def digit_sum(rng: random.Random) -> Example:
    name, kind, n = rng.choice(NAMES), rng.randrange(3), rng.randint(1000, 99999)
    digits = [int(d) for d in str(n)]
    prompt = (
        f"What is the digit sum of {n}?",
        f"Add up all the digits of {n} for {name}.",
        f"{name} writes down {n}. What do its digits add up to?",
    )[kind]
    lines, total = [f"The digits of {n} are {', '.join(map(str, digits))}.", f"Start with {digits[0]}."], digits[0]
    for ordinal, digit in zip(("second", "third", "fourth", "fifth"), digits[1:], strict=False):
        lines.append(f"Add the {ordinal} digit: {total} + {digit} = {total + digit}.")
        total += digit
    end = (f"So the digit sum is {total}.", f"Answer: {total}", f"The digits add up to {total}.")[kind]
    return worked_example(prompt, [*lines, end], total)


def _round_line(n: int) -> str:
    low = n - n % 10
    rule = f"{n % 10} is {'5 or more' if n % 10 >= 5 else 'less than 5'}, so round {'up' if n % 10 >= 5 else 'down'}"
    return f"{n} is between {low} and {low + 10}. Its last digit {rule} to {(n + 5) // 10 * 10}."


def round_sum(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    a, b = (rng.choice([k for k in range(11, 100) if k % 10]) for _ in range(2))
    ra, rb = ((k + 5) // 10 * 10 for k in (a, b))
    prompt = (
        f"Estimate {a} + {b} by rounding both numbers to the nearest ten.",
        f"{name} spends ${a} and ${b}. Round each amount to the nearest ten and add them.",
        f"Round {a} and {b} to the nearest ten for {name}. What is the sum of the rounded numbers?",
    )[kind]
    end = ("The estimate is {}.", "So the rounded total is ${}.", "Answer: {}")[kind].format(ra + rb)
    lines = [
        "Round each number first, then add.",
        _round_line(a),
        _round_line(b) if a != b else f"The other number is also {b}, so it becomes {rb} too.",
        f"Now add the rounded numbers: {ra} + {rb} = {ra + rb}.",
        end,
    ]
    return worked_example(prompt, lines, f"${ra + rb}" if kind == 1 else ra + rb)


TEMPLATES: tuple[Template, ...] = (
    average,
    solve,
    brackets,
    column_add,
    column_sub,
    long_mul,
    sequence,
    digit_sum,
    round_sum,
)
