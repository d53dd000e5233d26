"""Small rewrites and readings: grammar, tense, negation, questions on a passage, a summary."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .base import ITEMS, NAMES, Example, many, plural, worked_example
from .chat_words import CITIES, DAYS, JOBS, PLACES, listing, numbered, with_article

MOTION = (  # base, third person, past
    ("walk", "walks", "walked"),
    ("go", "goes", "went"),
    ("run", "runs", "ran"),
    ("drive", "drives", "drove"),
    ("travel", "travels", "travelled"),
    ("hurry", "hurries", "hurried"),
    ("return", "returns", "returned"),
)
ACTION = (
    ("buy", "buys", "bought"),
    ("find", "finds", "found"),
    ("paint", "paints", "painted"),
    ("draw", "draws", "drew"),
    ("carry", "carries", "carried"),
    ("sell", "sells", "sold"),
    ("see", "sees", "saw"),
    ("choose", "chooses", "chose"),
)
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")


def grammar(rng: random.Random) -> Example:
    """Correct one or two slips: verb form, plural or article, there/their."""
    who, past = rng.sample(NAMES, rng.choice((1, 2))), rng.random() < 0.5
    motion, action, item = rng.choice(MOTION), rng.choice(ACTION), rng.choice(ITEMS)
    count, place, day = rng.randint(1, 5), rng.choice(PLACES), rng.choice(DAYS)
    form = 2 if past else 1 if len(who) == 1 else 0
    reason = "it happened in the past" if past else f"the subject is {'one person' if form else 'two people'}"
    verb, wrong_verb = motion[form], motion[1 if form == 0 else 0]
    thing = with_article(item) if count == 1 else f"{NUMBER_WORDS[count]} {many(item)}"
    swap = f"a {item}" if item[0] in "aeiou" else f"an {item}"
    wrong_thing = swap if count == 1 else f"{NUMBER_WORDS[count]} {item}"
    starts = "vowel" if item[0] in "aeiou" else "consonant"
    why = f'"{item}" starts with a {starts}' if count == 1 else f"{NUMBER_WORDS[count]} is more than one"
    slips = [(wrong_verb, verb, reason), (wrong_thing, thing, why)]
    if len(who) == 2:
        slips.append(("there friends", "their friends", "the friends belong to them"))
    chosen = sorted(rng.sample(range(len(slips)), rng.choice((1, 2, 2))))
    word = [slips[i][0] if i in chosen else slips[i][1] for i in range(len(slips))]

    def sentence(parts: Sequence[str]) -> str:
        friends = f" with {parts[2]}" if len(parts) > 2 else ""
        when = f"Last {day}" if past else f"Every {day}"
        return f"{when} {listing(who)} {parts[0]} to the {place}{friends} and {action[form]} {parts[1]}."

    right = sentence([slip[1] for slip in slips])
    prompts = (
        f"Correct this sentence and explain: {sentence(word)}",
        f"Please fix the grammar: {sentence(word)}",
        f"What is wrong here? {sentence(word)}",
    )
    prompt = rng.choice(prompts)
    found = [f'"{slips[i][0]}" should be "{slips[i][1]}", because {slips[i][2]}.' for i in chosen]
    head = "There is one mistake in the sentence:" if len(chosen) == 1 else "There are two mistakes in the sentence:"
    return worked_example(prompt, [head, *numbered(found), "Here is the corrected sentence:", right], right)


def _clause(rng: random.Random) -> tuple[str, tuple[str, str, str], str]:
    """A subject, a verb with its three forms, and what follows it."""
    name, day = rng.choice(NAMES), rng.choice(DAYS)
    if rng.random() < 0.5:
        return name, rng.choice(MOTION), f"to the {rng.choice(PLACES)} on {day}"
    return name, rng.choice(ACTION), f"{with_article(rng.choice(ITEMS))} at the {rng.choice(PLACES)} on {day}"


def past_tense(rng: random.Random) -> Example:
    """Two verbs from the present to the past."""
    name, item, place = rng.choice(NAMES), rng.choice(ITEMS), rng.choice(PLACES)
    go, act = rng.choice(MOTION), rng.choice(ACTION)
    texts = [f"{name} {go[i]} to the {place} and {act[i]} {with_article(item)} there." for i in range(3)]
    prompts = (
        f"Rewrite in the past tense: {texts[1]}",
        f"{texts[1]} Put this sentence into the past.",
        f"Say that this happened before: {texts[1]}",
    )
    prompt = rng.choice(prompts)
    lines = [
        "The sentence has two verbs, and both must change to the past form:",
        f'1. "{go[1]}" becomes "{go[2]}"',
        f'2. The other verb, "{act[1]}", turns into "{act[2]}"',
        "Everything else stays the same. In the past tense it reads:",
        texts[2],
    ]
    return worked_example(prompt, lines, texts[2])


def reword(rng: random.Random) -> Example:
    """Negate a statement, or turn it into a question, with `do` in the right tense."""
    name, verb, rest = _clause(rng)
    past, ask = rng.random() < 0.5, rng.random() < 0.5
    form, helper, tense = (verb[2], "did", "past") if past else (verb[1], "does", "present")
    text, goal = f"{name} {form} {rest}.", "a yes or no question" if ask else "a negative sentence"
    prompt = rng.choice((f"Turn this into {goal}: {text}", f"Rewrite as {goal}: {text}", f"{text} Make it {goal}."))
    what = f'put "{helper.capitalize()}" in front of {name}' if ask else f'use "{helper} not" after {name}'
    final = f"{helper.capitalize()} {name} {verb[0]} {rest}?" if ask else f"{name} {helper} not {verb[0]} {rest}."
    lines = [
        f'The verb is "{form}", which is in the {tense} tense.',
        f"To make {goal} in the {tense}, {what}.",
        f'Then comes the base form of the verb, so "{form}" changes to "{verb[0]}". The result is:',
        final,
    ]
    return worked_example(prompt, lines, final)


def passage(rng: random.Random) -> Example:
    """Questions about a short passage; the last one is checked."""
    (who, friend), day, city = rng.sample(NAMES, 2), rng.choice(DAYS), rng.choice(CITIES)
    place, item, count = rng.choice(PLACES), rng.choice(ITEMS), rng.randint(2, 30)
    verb = rng.choice(ACTION)
    things = plural(count, item)
    text = f"On {day} {who} went to the {place} in {city}. A friend, {friend}, came along. "
    text += f"Together they {verb[2]} {things} and then took the bus home."
    facts = [
        (f"Who came along with {who}?", friend, f"The friend who came along was {friend}."),
        ("When did they go?", day, f"The trip was on {day}."),
        ("In which city was it?", city, f"They were in the city of {city}."),
        ("Which place did they visit?", place, f"They visited the {place}."),
        (f"What did they {verb[0]}?", things, f"They {verb[2]} {things}."),
    ]
    asked = rng.sample(facts, 4)
    questions = " ".join(fact[0] for fact in asked)
    prompts = (
        f"Read the text and answer. {text} Questions: {questions}",
        f"{text} {questions}",
    )
    prompt = rng.choice(prompts)
    lines = [f"I read the text about {who}. The answers are:", *numbered(fact[2] for fact in asked)]
    final = ", ".join(fact[1] for fact in asked)
    return worked_example(prompt, [*lines, f"In short form: {final}"], final)


def summary(rng: random.Random) -> Example:
    """Three facts of a small story in one sentence."""
    name, job, city, day = rng.choice(NAMES), rng.choice(JOBS), rng.choice(CITIES), rng.choice(DAYS)
    verb, thing, place = rng.choice(ACTION), with_article(rng.choice(ITEMS)), rng.choice(PLACES)
    text = f"{name} lives in {city} and works as a {job}. The week was long and there was a lot to do. On {day} there "
    text += f"was some free time at last. {name} went to the {place}. The sun was out. {name} {verb[2]} {thing}."
    prompts = (
        f"Summarise this story in one sentence: {text}",
        f"{text} Give a summary of one sentence.",
        f"What happens in this story, in short? {text}",
    )
    prompt = rng.choice(prompts)
    final = f"On {day} {name}, a {job} from {city}, {verb[2]} {thing} at the {place}."
    lines = [
        "The story has three main facts:",
        f"- Person: {name}, who works as a {job} in {city}",
        f"- Time and place: {day}, the {place}",
        f"- Event: someone {verb[2]} {thing}",
        "The weather and the long week are details that a summary can leave out.",
        f"Summary: {final}",
    ]
    return worked_example(prompt, lines, final)
