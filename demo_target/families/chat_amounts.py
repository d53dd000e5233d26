"""Everyday amounts: units, prices, recipes, change and limits."""

from __future__ import annotations

import random

from .base import ITEMS, NAMES, Example, plural, worked_example
from .chat_words import listing, running_sum

UNITS = (  # big unit, small unit, factor, things measured
    ("metres", "centimetres", 100, ("rope", "fence", "table", "carpet")),
    ("kilograms", "grams", 1000, ("parcel", "bag of flour", "melon", "suitcase")),
    ("hours", "minutes", 60, ("film", "flight", "lesson", "hike")),
    ("weeks", "days", 7, ("holiday", "course", "project", "camp")),
    ("dozen", "single eggs", 12, ("egg order", "egg delivery", "market basket")),
    ("litres", "millilitres", 1000, ("bottle", "bucket", "tank")),
    ("centimetres", "millimetres", 10, ("pencil", "screw", "leaf", "ribbon")),
    ("kilometres", "metres", 1000, ("road", "race", "river walk")),
)


def units(rng: random.Random) -> Example:
    """A whole number of a big unit, plus some of the small one, in the small unit."""
    big, small, factor, things = rng.choice(UNITS)
    name, thing, count = rng.choice(NAMES), rng.choice(things), rng.randint(2, 9)
    extra = rng.randint(2, min(factor - 1, 9)) * (1 if factor < 60 else 5 if factor == 60 else factor // 20)
    facts = f"{count} {big} and {extra} {small}"
    prompts = (
        f"Convert {facts} to {small}. {name} needs it for the {thing}.",
        f"How many {small} are {facts}? It is for the {thing} of {name}.",
        f"{name} has a note about the {thing}: {facts}. What is that in {small}?",
    )
    prompt = rng.choice(prompts)
    total = f"{count * factor + extra} {small}"
    rule = f"1 dozen is {factor} {small}" if big == "dozen" else f"1 {big[:-1]} is {factor} {small}"
    lines = [
        f"{name}'s value for the {thing} is {facts}.",
        f"Rule: {rule}.",
        f"Step 1: change the {big}. {count} x {factor} = {count * factor}.",
        f"Step 2: add the rest. {count * factor} + {extra} = {count * factor + extra}.",
        f"Answer: {total}",
    ]
    return worked_example(prompt, lines, total)


def shopping(rng: random.Random) -> Example:
    """Counts and prices, and the total."""
    name, items = rng.choice(NAMES), rng.sample(ITEMS, 3)
    lots = [(item, rng.randint(2, 5), rng.randint(1, 6)) for item in items]
    facts = listing([f"{plural(count, item)} at ${price} each" for item, count, price in lots])
    prompts = (
        f"{name} buys {facts}. Make a shopping list with the total.",
        f"Write a shopping list for {name} and work out the cost: {facts}.",
        f"What does {name} pay for {facts}?",
    )
    prompt = rng.choice(prompts)
    costs = [count * price for _, count, price in lots]
    rows = [f"- {plural(count, item)}: {count} x ${price} = ${count * price}" for item, count, price in lots]
    lines = [f"Shopping list for {name}:", *rows, f"Now add the three amounts: {running_sum(costs)}."]
    return worked_example(prompt, [*lines, f"{name} pays ${sum(costs)} in total."], f"${sum(costs)}")


def ride_rule(rng: random.Random) -> Example:
    """Yes or no: old enough, and with a ticket?"""
    name, limit, age = rng.choice(NAMES), rng.randint(6, 16), rng.randint(5, 18)
    ticket, ride = rng.random() < 0.7, rng.choice(("ride the train", "join the race", "use the slide", "see the film"))
    has = "has a ticket" if ticket else "has no ticket"
    prompts = (
        f"May {name}, aged {age}, {ride}? You must be at least {limit} and need a ticket. {name} {has}.",
        f"{name} is {age} years old and {has}. The rule: at least {limit} years and a ticket. May {name} {ride}?",
        f"Rule to {ride}: age {limit} or more, with a ticket. {name} is {age} and {has}. Is it allowed?",
    )
    prompt = rng.choice(prompts)
    ok, fits = age >= limit and ticket, age >= limit
    size = "equal to" if age == limit else "more than" if fits else "less than"
    final = f"Yes, {name} may {ride}" if ok else f"No, {name} may not {ride}"
    lines = [
        f"There are two conditions for {name}:",
        f"1. Age: {age} is {size} {limit}, so this condition is {'met' if fits else 'not met'}.",
        f"2. Ticket: {name} {has}, which is {'fine' if ticket else 'a problem'}.",
        f"{'Both parts are' if ok else 'Not everything is'} in order, and the rule asks for both.",
        f"{final}.",
    ]
    return worked_example(prompt, lines, final)


def recipe(rng: random.Random) -> Example:
    """Scale an ingredient list."""
    dish, base = rng.choice(("pancakes", "soup", "salad", "bread", "cake", "pie")), rng.choice((2, 3, 4))
    factor, name = rng.randint(2, 5), rng.choice(NAMES)
    foods = rng.sample(("eggs", "carrots", "tomatoes", "cups of flour", "spoons of sugar", "cups of milk"), 3)
    amounts = [rng.randint(2, 9) for _ in foods]
    people = base * factor
    facts = listing([f"{amount} {food}" for amount, food in zip(amounts, foods, strict=True)])
    prompts = (
        f"A recipe for {dish} for {base} people needs {facts}. {name} cooks for {people} people. How much is needed?",
        f"Scale this recipe for {name} from {base} to {people} people. Dish: {dish}. Ingredients: {facts}.",
    )
    prompt = rng.choice(prompts)
    rows = [f"- {food}: {amount} x {factor} = {amount * factor}" for amount, food in zip(amounts, foods, strict=True)]
    final = listing([f"{amount * factor} {food}" for amount, food in zip(amounts, foods, strict=True)])
    lines = [f"First find the factor for the {dish}: {people} / {base} = {factor}.", "Then multiply each amount:"]
    return worked_example(prompt, [*lines, *rows, f"For {people} people {name} needs {final}."], final)


def shop_dialogue(rng: random.Random) -> Example:
    """A short dialogue at the till, with the change."""
    seller, buyer = rng.sample(NAMES, 2)
    item, count, price = rng.choice(ITEMS), rng.randint(2, 6), rng.randint(1, 8)
    cost = count * price
    note = rng.choice([value for value in (10, 20, 50) if value > cost])
    things = plural(count, item)
    prompts = (
        f"Write a dialogue: {buyer} buys {things} from {seller} for ${price} each and pays with ${note}.",
        f"{seller} sells {things} to {buyer}. One costs ${price}. {buyer} gives ${note}. Write what they say.",
    )
    prompt = rng.choice(prompts)
    lines = [
        f"{seller}: Good morning! What can I do for you?",
        f"{buyer}: Hello, I would like {things}, please.",
        f"{seller}: Of course. They are ${price} each, so that is {count} x {price} = ${cost}.",
        f"{buyer}: Here is ${note}.",
        f"{seller}: Thank you. {note} - {cost} = {note - cost}, so you get ${note - cost} back.",
    ]
    return worked_example(prompt, lines, f"${note - cost} back")
