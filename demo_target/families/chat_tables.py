"""Lists, tables, rankings, JSON and forms made from facts."""

from __future__ import annotations

import json
import random

from .base import ITEMS, NAMES, Example, many, plural, worked_example
from .chat_words import CITIES, DAYS, JOBS, listing, numbered, running_sum

PETS = ("cat", "dog", "rabbit", "hamster", "parrot", "turtle", "horse", "goat")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "purple")
THINGS = ("kettle", "bike", "lamp", "chair", "phone", "radio", "camera", "jacket", "tent", "clock", "desk", "bag")


def table_total(rng: random.Random) -> Example:
    """A markdown table from records, with a total."""
    names, item = rng.sample(NAMES, 3), rng.choice(ITEMS)
    counts = [rng.randint(2, 15) for _ in names]
    facts = listing([f"{name} has {plural(count, item)}" for name, count in zip(names, counts, strict=True)])
    prompts = (
        f"Make a table with a total: {facts}.",
        f"{facts}. Please show this as a markdown table and add the total.",
        f"Turn this into a table: {facts}. How many is that in total?",
    )
    prompt = rng.choice(prompts)
    rows = [f"| {name} | {count} |" for name, count in zip(names, counts, strict=True)]
    total = plural(sum(counts), item)
    lines = [f"This table shows how many {many(item)} each person has:", "", "| Name | Number |", "| --- | --- |"]
    lines += [*rows, "", f"To get the total, add the numbers: {running_sum(counts)}.", f"Total: {total}"]
    return worked_example(prompt, lines, total)


def _initial_names(rng: random.Random, count: int) -> list[str]:
    """Names that all begin with different letters."""
    chosen: list[str] = []
    for name in rng.sample(NAMES, len(NAMES)):
        if len(chosen) < count and all(name[0] != other[0] for other in chosen):
            chosen.append(name)
    return chosen


def sort_names(rng: random.Random) -> Example:
    """Three or four names in alphabetical order."""
    names = _initial_names(rng, rng.choice((3, 4, 4)))
    listed = ", ".join(names)
    prompts = (
        f"Sort these names alphabetically: {listed}.",
        f"Put the names {listing(names)} in alphabetical order.",
        f"Here is a guest list: {listed}. Please order it from A to Z.",
    )
    prompt = rng.choice(prompts)
    ordered = sorted(names)
    final = ", ".join(ordered)
    letters = listing([f"{name} starts with {name[0]}" for name in names])
    lines = ["To sort names alphabetically, compare the first letters.", f"{letters}.", "In order from A to Z:"]
    return worked_example(prompt, [*lines, *numbered(ordered), f"Sorted list: {final}"], final)


def sort_scores(rng: random.Random) -> Example:
    """Names ordered by their scores."""
    names, scores = rng.sample(NAMES, 4), rng.sample(range(10, 60), 4)
    score = dict(zip(names, scores, strict=True))
    high = rng.random() < 0.5
    facts = ", ".join(f"{name} {points}" for name, points in score.items())
    order = "highest to lowest" if high else "lowest to highest"
    prompts = (
        f"Sort these players by points, {order}: {facts}.",
        f"The points are: {facts}. List the players from {order}.",
        f"Rank the players from {order} score. Scores: {facts}.",
    )
    prompt = rng.choice(prompts)
    ordered = sorted(names, key=lambda name: -score[name] if high else score[name])
    final = ", ".join(ordered)
    numbers = ", ".join(str(score[name]) for name in ordered)
    lines = [f"There are four players. The points from {order} are {numbers}.", "That gives this ranking:"]
    rows = numbered(f"{name} with {score[name]} points" for name in ordered)
    return worked_example(prompt, [*lines, *rows, f"{ordered[0]} comes first. The order is {final}."], final)


def _person(rng: random.Random) -> tuple[dict[str, str | int], str]:
    """Fields of a person, and the sentence that tells them."""
    name, age, city, job = rng.choice(NAMES), rng.randint(20, 69), rng.choice(CITIES), rng.choice(JOBS)
    pet, colour = rng.choice(PETS), rng.choice(COLOURS)
    texts = (
        f"{name} is a {age} year old {job} from {city} who has a {pet} and likes {colour}.",
        f"In {city} lives {name}, a {job} aged {age}, whose pet is a {pet} and whose favourite colour is {colour}.",
    )
    text = rng.choice(texts)
    return {"name": name, "age": age, "city": city, "job": job, "pet": pet, "colour": colour}, text


def to_json(rng: random.Random) -> Example:
    """A JSON object from a sentence."""
    fields, text = _person(rng)
    keys = rng.sample(list(fields), rng.choice((3, 4)))
    prompts = (
        f"Give JSON with the keys {listing(keys)}: {text}",
        f"Turn this into a JSON object with {', '.join(keys)}. {text}",
        f"{text} Write {listing(keys)} as JSON.",
    )
    prompt = rng.choice(prompts)
    final = json.dumps({key: fields[key] for key in keys})
    rows = [f"- the {key} is {fields[key]}" for key in keys]
    lines = [f"From the sentence about {fields['name']} I read these values:", *rows]
    return worked_example(
        prompt,
        [*lines, "Numbers are written without quotes and words with quotes. As JSON:", "```json", final, "```"],
        final,
    )


def form(rng: random.Random) -> Example:
    """Fill in a form and say which field the message leaves open."""
    name, age, city = rng.choice(NAMES), rng.randint(18, 79), rng.choice(CITIES)
    day, job = rng.choice(DAYS), rng.choice(JOBS)
    says = {
        "Name": (name, f"my name is {name}"),
        "Age": (str(age), f"I am {age} years old"),
        "City": (city, f"I live in {city}"),
        "Job": (job, f"I work as a {job}"),
        "Day": (day, f"I will come on {day}"),
    }
    gone = rng.choice(list(says))
    told = [text for key, (_, text) in says.items() if key != gone]
    rng.shuffle(told)
    prompts = (
        f'Fill in the form (Name, Age, City, Job, Day) from this message: "Hello, {listing(told)}." What is missing?',
        f'A guest writes: "Hi, {listing(told)}." Complete the form Name, Age, City, Job, Day and name the open field.',
    )
    prompt = rng.choice(prompts)
    rows = [f"{key}: {'(not given)' if key == gone else value}" for key, (value, _) in says.items()]
    lines = ["Here is the form, filled in from the message:", *rows]
    lines.append("Four of the five fields are in the message, so one question is still open.")
    return worked_example(prompt, [*lines, f"Please ask for the missing field: {gone}"], gone)


def compare(rng: random.Random) -> Example:
    """Two options with price and rating; one of the two criteria decides."""
    thing, colours = rng.choice(THINGS), rng.sample(COLOURS, 2)
    prices, ratings = rng.sample(range(10, 60), 2), rng.sample(range(1, 10), 2)
    by_price = rng.random() < 0.5
    facts = [f"the {c} {thing} costs ${p} and is rated {r}" for c, p, r in zip(colours, prices, ratings, strict=True)]
    wish = "a low price" if by_price else "a high rating"
    prompts = (
        f"Which {thing} should I buy? {listing(facts).capitalize()}. I want {wish}.",
        f"I want {wish}. Compare: {listing(facts)}. Which one do you recommend?",
        f"Help me choose: {listing(facts)}. The main thing for me is {wish}.",
    )
    prompt = rng.choice(prompts)
    best = prices.index(min(prices)) if by_price else ratings.index(max(ratings))
    other = 1 - best
    price = f"${prices[best]} is less than ${prices[other]}"
    step = price if by_price else f"{ratings[best]} is more than {ratings[other]}"
    rows = [f"| {c} | ${p} | {r} |" for c, p, r in zip(colours, prices, ratings, strict=True)]
    lines = [f"Here are the two choices for the {thing}:", "", "| Colour | Price | Rating |", "| --- | --- | --- |"]
    last = f"Recommendation: buy the {colours[best]} {thing}."
    return worked_example(
        prompt, [*lines, *rows, "", f"You want {wish}, and {step}.", last], f"{colours[best]} {thing}"
    )


def score_board(rng: random.Random) -> Example:
    """Two rounds, three players, one winner."""
    names, game = rng.sample(NAMES, 3), rng.choice(("darts", "cards", "chess", "bowling", "mini golf", "table tennis"))
    rounds = [(rng.randint(1, 15), rng.randint(1, 15)) for _ in names]
    while len(set(map(sum, rounds))) < 3:
        rounds = [(rng.randint(1, 15), rng.randint(1, 15)) for _ in names]
    facts = listing([f"{name} gets {a} and {b}" for name, (a, b) in zip(names, rounds, strict=True)])
    prompts = (
        f"In two rounds of {game} {facts}. Who wins?",
        f"Make a score board for {game} and name the winner: {facts}.",
        f"{facts}. These are the points from two rounds of {game}. Who has the most points?",
    )
    prompt = rng.choice(prompts)
    rows = [f"| {name} | {a} + {b} | {a + b} |" for name, (a, b) in zip(names, rounds, strict=True)]
    best = max(range(3), key=lambda i: sum(rounds[i]))
    final = f"{names[best]} wins with {sum(rounds[best])} points"
    totals = ", ".join(str(a + b) for a, b in rounds)
    lines = [f"Score board for {game}:", "", "| Player | Rounds | Points |", "| --- | --- | --- |", *rows, ""]
    lines.append(f"The totals are {totals}, and the largest of these is {sum(rounds[best])}.")
    return worked_example(prompt, [*lines, f"{final}."], final)
