"""Word problems about distance, temperature, length, area and age."""

from __future__ import annotations

import random

from .base import NAMES, Example, Template, words, worked_example
from .math_steps import add, sub, two_names

CITIES = words("Paris London Rome Berlin Madrid Oslo Vienna Dublin Lisbon Prague Athens Warsaw Geneva Boston")


def distance(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    start, stop = rng.sample(CITIES, 2)
    speed, hours, more = rng.randint(3, 9) * 10, rng.randint(2, 6), rng.randint(2, 30)
    total = speed * hours + more
    prompt = (
        f"{name} leaves {start} for {stop} and drives {hours} hours at {speed} km per hour, then {more} km more. "
        "How far is the trip?",
        f"A train with {name} on board travels from {start} at {speed} km per hour for {hours} hours. "
        f"{stop} is another {more} km away. Find the total distance.",
        f"From {start}, {name} rides for {hours} hours at {speed} km per hour. Then {stop} is {more} km off. "
        f"How far apart are {start} and {stop}?",
    )[kind]
    end = (f"So the trip is {total} km.", f"Answer: {total} km", f"So {start} and {stop} are {total} km apart.")[kind]
    lines = [
        "Distance is speed times time.",
        f"The speed is {speed} km per hour and the time is {hours} hours.",
        f"{speed // 10} x {hours} = {speed // 10 * hours}, so {speed} x {hours} = {speed * hours} km.",
        f"Then add the last part to {stop}: {add(speed * hours, more)} km.",
        end,
    ]
    return worked_example(prompt, lines, f"{total} km")


def temperature(rng: random.Random) -> Example:
    one, two = rng.sample(CITIES, 2)
    name, kind = rng.choice(NAMES), rng.randrange(3)
    warm, cold = rng.randint(3, 35), rng.randint(2, 20)
    total = warm + cold
    prompt = (
        f"It is {warm} degrees in {one} and -{cold} degrees in {two}, reads {name}. What is the difference?",
        f"{name} flies from {two}, where it is -{cold} degrees, to {one}, where it is {warm}. "
        "By how many degrees does it get warmer?",
        f"{name} sees -{cold} degrees for {two} and {warm} degrees for {one}. How much colder is {two}?",
    )[kind]
    ends = ("So the difference is {} degrees.", "So it gets {} degrees warmer.", "So " + two + " is {} degrees colder.")
    lines = [
        "One temperature is below zero and the other is above zero.",
        f"From -{cold} in {two} up to 0 is {cold} degrees.",
        f"From 0 up to {warm} in {one} is {warm} degrees.",
        f"Add the two parts: {add(warm, cold)}.",
        ends[kind].format(total),
    ]
    return worked_example(prompt, lines, f"{total} degrees")


def perimeter(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    shape = rng.choice(("garden", "room", "field", "yard", "park", "pool"))
    a, b = rng.randint(5, 45), rng.randint(2, 30)
    total = 2 * (a + b)
    prompt = (
        f"{name} has a rectangular {shape} that is {a} m long and {b} m wide. What is its perimeter?",
        f"How much fence does {name} need to go around a {shape} of {a} m by {b} m?",
        f"{name} walks once around a rectangular {shape} with sides {a} m and {b} m. How far is that?",
    )[kind]
    end = (f"So the perimeter is {total} m.", f"So {name} needs {total} m of fence.", f"So {name} walks {total} m.")
    lines = [
        f"The {shape} has two sides of {a} m and two sides of {b} m.",
        f"Add one length and one width: {add(a, b)}.",
        f"There are two such pairs, so double {a + b}.",
        f"{add(a + b, a + b)}.",
        end[kind],
    ]
    return worked_example(prompt, lines, f"{total} m")


def area(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    shape = rng.choice(("wall", "floor", "lawn", "roof", "carpet", "field", "stage"))
    a, b, cut = rng.randint(4, 12), rng.randint(3, 12), rng.randint(2, 9)
    left, square = a * b - cut, " It is a square." if a == b else ""
    what, use = f"{a} m long and {b} m wide", ("painted", "covered by a box", "left alone")[kind]
    prompt = (
        f"A {shape} is {what}. {name} has painted {cut} square m. How many square m are still to paint?",
        f"{name} measures a {shape}: it is {what}. A box covers {cut} square m. What area is free?",
        f"The {shape} of {name} is {what}, and {cut} square m are to be left. Find the area that is cleaned.",
    )[kind]
    end = ("So {} square m are still to paint.", "So the free area is {} square m.", "Answer: {} square m")[kind]
    lines = [
        f"The {shape} is {a} m by {b} m.{square}",
        "The area is length times width.",
        f"{a} x {b} = {a * b} square m.",
        f"Of this, {cut} square m are {use}.",
        f"Subtract that part: {sub(a * b, cut)}.",
        end.format(left),
    ]
    return worked_example(prompt, lines, f"{left} square m")


def ages(rng: random.Random) -> Example:
    one, two = two_names(rng)
    kind, a, gap, years = rng.randrange(3), rng.randint(4, 40), rng.randint(2, 15), rng.randint(2, 20)
    older = a + gap
    total = older + years
    prompt = (
        f"{one} is {a} years old. {two} is {gap} years older. How old will {two} be in {years} years?",
        f"{two} is {gap} years older than {one}, who is {a}. What will the age of {two} be after {years} years?",
        f"{one} is {a} and {two} was born {gap} years earlier. Find the age of {two} {years} years from now.",
    )[kind]
    end = (f"So {two} will be {total} years old.", f"So the age of {two} will be {total}.", f"Answer: {total}")[kind]
    lines = [
        f"The age of {one} now is {a}.",
        f"{two} is older by {gap} years, so {two} is now {add(a, gap)}.",
        f"After {years} more years, add {years} to {older}.",
        f"{add(older, years)}.",
        end,
    ]
    return worked_example(prompt, lines, total)


TEMPLATES: tuple[Template, ...] = (distance, temperature, perimeter, area, ages)
