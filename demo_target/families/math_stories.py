"""Word problems about things that are given, packed, shared, compared and scaled."""

from __future__ import annotations

import random

from .base import ITEMS, NAMES, Example, Template, many, plural, worked_example
from .math_steps import add, div, sub, two_names


def two_step(rng: random.Random) -> Example:
    name, other = two_names(rng)
    item, kind = many(rng.choice(ITEMS)), rng.randrange(4)
    a, b = rng.randint(11, 99), rng.randint(5, 60)
    c = rng.randint(3, a + b - 2)
    left = a + b - c
    prompt = (
        f"{name} has {a} {item}. {other} gives {name} {b} more. Then {name} loses {c}. How many {item} are left?",
        f"A box holds {a} {item}. {name} puts in {b} and {other} takes out {c}. How many {item} are in the box now?",
        f"{name} collects {a} {item} on Monday and {b} on Tuesday, then sells {c} to {other}. How many remain?",
        f"{name} starts with {a} {item}, buys {b} more and gives {c} to {other}. How many does {name} have?",
    )[kind]
    verb = ("is given", "puts in", "collects another", "buys")[kind]
    away = ("loses", "takes out", "sells", "gives away")[kind]
    who = other if kind == 1 else name
    end = (
        f"So {left} {item} are left.",
        f"So the box now holds {left} {item}.",
        f"So {left} {item} remain.",
        f"So {name} has {left} {item}.",
    )[kind]
    lines = [
        f"At the start there are {a} {item}.",
        f"Then {name} {verb} {b}, so add.",
        f"{add(a, b)} {item}.",
        f"After that {who} {away} {c}, so subtract.",
        f"{sub(a + b, c)} {item}.",
        end,
    ]
    return worked_example(prompt, lines, left)


def groups_plus(rng: random.Random) -> Example:
    name, item, kind = rng.choice(NAMES), many(rng.choice(ITEMS)), rng.randrange(3)
    pack = rng.choice(("bag", "box", "basket", "packet", "tray"))
    n, size, extra = rng.randint(2, 12), rng.randint(3, 12), rng.randint(2, 20)
    total = n * size + extra
    prompt = (
        f"{name} has {n} {many(pack)} with {size} {item} in each, and {extra} loose {item}. How many in total?",
        f"There are {size} {item} in each {pack}. {name} buys {n} {many(pack)} and finds {extra} more {item}. "
        f"How many {item} does {name} have?",
        f"{name} fills {n} {many(pack)} with {size} {item} each and has {extra} left over. Find the number of {item}.",
    )[kind]
    end = (f"So there are {total} {item} in total.", f"So {name} has {total} {item}.", f"Answer: {total} {item}")
    rest = ("loose", "extra", "remaining")[kind]
    lines = [
        f"Each {pack} holds {size} {item} and there are {n} {many(pack)}.",
        f"Multiply to count the {item} inside: {n} x {size} = {n * size}.",
        f"The {rest} {item} number {extra}, so add them.",
        f"{add(n * size, extra)}.",
        end[kind],
    ]
    return worked_example(prompt, lines, total)


def share_remainder(rng: random.Random) -> Example:
    name, item, kind = rng.choice(NAMES), rng.choice(ITEMS), rng.randrange(3)
    n, each = rng.randint(3, 12), rng.randint(2, 12)
    rest = rng.randint(1, n - 1)
    total = n * each + rest
    prompt = (
        f"{name} shares {total} {many(item)} equally among {n} friends. How many does each get and how many are left?",
        f"{total} {many(item)} are dealt equally to {n} friends by {name}. Find the share and the remainder.",
        f"{name} packs {total} {many(item)} into {n} equal bags. How many go in each bag, and how many are left over?",
    )[kind]
    final = (f"{each} each, {rest} left", f"share {each}, remainder {rest}", f"{each} per bag, {rest} left over")[kind]
    where = ("friend gets", "friend is dealt", "bag holds")[kind]
    lines = [
        f"Divide {total} by {n}.",
        f"Look for the largest multiple of {n} that is not more than {total}.",
        f"{n} x {each} = {n * each}, and {n} x {each + 1} = {n * (each + 1)} is too many.",
        f"So each {where} {plural(each, item)}.",
        f"Find what is not shared out: {sub(total, n * each)}.",
        f"Answer: {final}",
    ]
    return worked_example(prompt, lines, final)


def compare_totals(rng: random.Random) -> Example:
    one, two = two_names(rng)
    item, kind = many(rng.choice(ITEMS)), rng.randrange(3)
    (a, b), (c, d) = ((rng.randint(2, 10), rng.randint(2, 10)) for _ in range(2))
    d = d + 1 if a * b == c * d else d
    winner, high, low = (one, a * b, c * d) if a * b > c * d else (two, c * d, a * b)
    prompt = (
        f"{one} has {a} boxes of {b} {item}. {two} has {c} boxes of {d} {item}. Who has more, and how many more?",
        f"{one} packs {a} bags with {b} {item} each and {two} packs {c} bags with {d} {item} each. "
        "Who packs more and by how many?",
        f"Compare: {one} makes {a} rows of {b} {item}, {two} makes {c} rows of {d} {item}. Who uses more?",
    )[kind]
    final = (f"{winner} has {high - low} more", f"{winner} packs {high - low} more", f"{winner} uses {high - low} more")
    lines = [
        "Find both totals and then compare them.",
        f"{one}: {a} x {b} = {a * b} {item}.",
        f"{two}: {c} x {d} = {c * d} {item}.",
        f"{high} is greater than {low}, so {winner} is ahead.",
        f"The difference is {sub(high, low)}.",
        f"So {final[kind]}.",
    ]
    return worked_example(prompt, lines, final[kind])


def fraction(rng: random.Random) -> Example:
    one, two = two_names(rng)
    item, kind = many(rng.choice(ITEMS)), rng.randrange(3)
    word, part = rng.choice((("half", 2), ("a third", 3), ("a quarter", 4), ("a fifth", 5)))
    given = rng.randint(2, 12)
    total = part * given
    left = total - given
    prompt = (
        f"{one} has {total} {item} and gives {word} of them to {two}. How many {item} does {one} keep?",
        f"There are {total} {item} on the table. {one} takes {word} of them while {two} waits. How many stay?",
        f"{one} sells {word} of {total} {item} to {two}. Find how many {item} are not sold.",
    )[kind]
    end = (f"So {one} keeps {left} {item}.", f"So {left} {item} stay.", f"Answer: {left} {item} are not sold.")[kind]
    lines = [
        f"To find {word} of {total}, divide by {part}.",
        f"{div(total, part)}.",
        f"So {one} {('gives', 'takes', 'sells')[kind]} {given} {item}.",
        f"Subtract them from the {total} at the start: {sub(total, given)}.",
        end,
    ]
    return worked_example(prompt, lines, left)


def ratio_split(rng: random.Random) -> Example:
    one, two = two_names(rng)
    item, kind = many(rng.choice(ITEMS)), rng.randrange(3)
    a, b, unit = rng.randint(1, 5), rng.randint(1, 5), rng.randint(2, 12)
    b = b + 1 if a == b else b
    total = (a + b) * unit
    prompt = (
        f"{one} and {two} share {total} {item} in the ratio {a}:{b}. How many does each get?",
        f"Split {total} {item} between {one} and {two} in the ratio {a}:{b}.",
        f"{total} {item} are divided so that {one} and {two} have them in the ratio {a}:{b}. Find both shares.",
    )[kind]
    final = f"{one} {('gets', 'receives', 'has')[kind]} {a * unit} and {two} {b * unit}"
    lines = [
        f"The ratio {a}:{b} has {a} + {b} = {a + b} parts.",
        f"One part is {div(total, a + b)}.",
        f"{one} takes {plural(a, 'part')}: {a} x {unit} = {a * unit}.",
        f"{two} takes {plural(b, 'part')}: {b} x {unit} = {b * unit}.",
        f"Check the sum: {add(a * unit, b * unit)}, as it should be.",
        f"So {final}.",
    ]
    return worked_example(prompt, lines, final)


def recipe(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    food = rng.choice(("soup", "cake", "bread", "stew", "salad", "curry", "pie", "pudding"))
    one, two = rng.sample(("flour", "milk", "sugar", "rice", "water", "cream", "oats", "cheese"), 2)
    serves, factor = rng.randint(2, 6), rng.randint(2, 6)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    people = serves * factor
    what = f"{a} cups of {one} and {b} cups of {two}"
    prompt = (
        f"A {food} recipe for {serves} people needs {what}. How much does {name} need for {people} people?",
        f"{name} makes {food} with {what} for {serves} people. Scale the recipe to {people} people.",
        f"For {serves} guests {name} uses {what} in the {food}. What is needed for {people} guests?",
    )[kind]
    final = f"{a * factor} cups of {one} and {b * factor} cups of {two}"
    lines = [
        f"First find how many times larger the {food} must be.",
        f"{div(people, serves)}.",
        f"So multiply every amount by {factor}.",
        f"For the {one}: {a} x {factor} = {a * factor} cups.",
        f"For the {two}: {b} x {factor} = {b * factor} cups.",
        (f"So {name} needs {final}.", f"Scaled recipe: {final}", f"Answer: {final}")[kind],
    ]
    return worked_example(prompt, lines, final)


TEMPLATES: tuple[Template, ...] = (
    two_step,
    groups_plus,
    share_remainder,
    compare_totals,
    fraction,
    ratio_split,
    recipe,
)
