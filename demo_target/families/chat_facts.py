"""Fixed facts and categories: capitals, opposites, young animals, kinds of things, orders of steps."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .base import NAMES, Example, pairs, plural, words, worked_example
from .chat_words import listing, numbered, with_article

CAPITALS = pairs(
    "France:Paris Italy:Rome Spain:Madrid Portugal:Lisbon Germany:Berlin Austria:Vienna Greece:Athens Norway:Oslo "
    "Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Poland:Warsaw Hungary:Budapest Egypt:Cairo "
    "Japan:Tokyo China:Beijing India:Delhi Peru:Lima Chile:Santiago Cuba:Havana Canada:Ottawa Kenya:Nairobi "
    "Russia:Moscow Turkey:Ankara Iran:Tehran Iraq:Baghdad Thailand:Bangkok Vietnam:Hanoi Belgium:Brussels "
    "Romania:Bucharest Bulgaria:Sofia"
)
OPPOSITES = pairs(
    "hot:cold big:small tall:short fast:slow old:young happy:sad light:dark wet:dry hard:soft full:empty open:closed "
    "early:late rich:poor strong:weak clean:dirty loud:quiet high:low long:short near:far thick:thin wide:narrow "
    "sweet:sour cheap:expensive easy:difficult up:down left:right in:out day:night first:last always:never win:lose "
    "buy:sell push:pull begin:end give:take"
)
YOUNG = pairs(
    "cow:calf dog:puppy cat:kitten sheep:lamb horse:foal pig:piglet goat:kid hen:chick duck:duckling goose:gosling "
    "swan:cygnet lion:cub bear:cub wolf:pup fox:kit deer:fawn frog:tadpole owl:owlet eagle:eaglet kangaroo:joey "
    "koala:joey elephant:calf whale:calf seal:pup tiger:cub rabbit:kit hare:leveret zebra:foal donkey:foal "
    "butterfly:caterpillar"
)
KINDS = {
    "fruit": words("apple pear plum lemon cherry banana mango grape peach melon"),
    "animal": words("cat dog horse sheep rabbit tiger goat wolf bear duck"),
    "tool": words("hammer saw drill spanner chisel rake shovel axe pliers file"),
    "colour": words("red blue green yellow white black brown grey pink purple"),
    "vehicle": words("car bus train boat plane truck tram bicycle ship van"),
    "garment": words("hat scarf sock shirt coat glove dress skirt jacket belt"),
}
KIND_OF = {word: kind for kind, members in KINDS.items() for word in members}
PROCEDURES = {
    "make tea": ("fill the kettle", "boil the water", "put the tea in the cup", "pour in the water", "drink the tea"),
    "plant a seed": ("dig a hole", "drop in the seed", "cover it with soil", "water the soil", "wait for the sprout"),
    "send a letter": ("write the letter", "fold the paper", "seal the envelope", "add the stamp", "post it"),
    "wash the dishes": ("clear the table", "fill the sink", "scrub the plates", "rinse them", "dry them"),
    "bake bread": ("mix the dough", "let it rise", "shape the loaf", "bake it", "let it cool"),
    "paint a wall": ("move the furniture", "cover the floor", "open the paint", "paint the wall", "clean the brush"),
    "borrow a book": ("enter the library", "find the book", "take it to the desk", "show the card", "read it at home"),
    "take the train": ("buy a ticket", "find the platform", "board the train", "sit down", "get off"),
    "make a salad": ("wash the leaves", "cut the tomatoes", "fill the bowl", "add the oil", "serve the salad"),
    "wash clothes": ("sort the clothes", "load the machine", "start the wash", "hang them up", "iron the shirts"),
    "change a bulb": ("switch off the lamp", "remove the old bulb", "put in the new bulb", "switch on the lamp"),
    "brush your teeth": ("wet the brush", "add the paste", "brush the teeth", "rinse the mouth"),
}


def classify(rng: random.Random) -> Example:
    """Words into three categories, with counts."""
    kinds = rng.sample(list(KINDS), 3)
    counts = [rng.randint(1, 3) for _ in kinds]
    groups = [rng.sample(KINDS[kind], count) for kind, count in zip(kinds, counts, strict=True)]
    words = [word for group in groups for word in group]
    rng.shuffle(words)
    heads = listing([f"{kind}s" for kind in kinds])
    prompts = (
        f"Sort these words into {heads} and count them: {', '.join(words)}.",
        f"Here are some words: {', '.join(words)}. Group them as {heads}. How many are in each group?",
        f"Which of these words are {heads}: {', '.join(words)}? Count each group.",
    )
    prompt = rng.choice(prompts)
    ordered = [[word for word in words if KIND_OF[word] == kind] for kind in kinds]
    final = ", ".join(plural(count, kind) for kind, count in zip(kinds, counts, strict=True))
    each = [f"{word} is {with_article(KIND_OF[word])}" for word in words]
    rows = [f"- {kind}s: {', '.join(group)}" for kind, group in zip(kinds, ordered, strict=True)]
    return worked_example(
        prompt, ["One word at a time: " + ", ".join(each) + ".", "So the groups are:", *rows, f"Count: {final}"], final
    )


def _facts(rng: random.Random, table: dict[str, str], asks: Sequence[str], intro: str, row: str) -> Example:
    """Three entries of a fact table asked at once."""
    keys, name = rng.sample(list(table), 3), rng.choice(NAMES)
    prompt = rng.choice(asks).format(keys=listing(keys), name=name)
    rows = numbered(row.format(key=key, value=table[key]) for key in keys)
    final = ", ".join(table[key] for key in keys)
    return worked_example(prompt, [intro.format(name=name), *rows, f"The three answers in order are: {final}"], final)


def capitals(rng: random.Random) -> Example:
    """Capital cities."""
    asks = (
        "{name} has a quiz: what are the capitals of {keys}?",
        "Name the capital cities of {keys} for {name}.",
        "{name} wants to know the capitals of these countries: {keys}.",
    )
    row = "The capital of {key} is the city of {value}."
    return _facts(rng, CAPITALS, asks, "Here are the capital cities that {name} needs:", row)


def opposites(rng: random.Random) -> Example:
    """Antonyms."""
    asks = (
        "Give {name} the opposites of {keys}.",
        "{name} is learning English. What is the opposite of each word: {keys}?",
        "Which words mean the opposite of {keys}? {name} asks.",
    )
    row = 'The opposite of "{key}" is the word "{value}".'
    return _facts(rng, OPPOSITES, asks, "These are the opposites for {name}, one for each word:", row)


def young(rng: random.Random) -> Example:
    """Animals and their young."""
    asks = (
        "{name} asks: what are the young of these animals called: {keys}?",
        "Tell {name} the names for the young of these animals: {keys}.",
        "What do we call the babies of the following animals: {keys}? It is for {name}.",
    )
    row = "A young {key} has the name {value}."
    return _facts(rng, YOUNG, asks, "Many animals have a special word for their young, {name}:", row)


def order_steps(rng: random.Random) -> Example:
    """Shuffled steps of a known procedure, by letter."""
    name, task = rng.choice(NAMES), rng.choice(list(PROCEDURES))
    steps = PROCEDURES[task]
    kept = sorted(rng.sample(range(len(steps)), 4))
    shown = rng.sample(kept, 4)
    letter = dict(zip(shown, "ABCD", strict=True))
    listed = "; ".join(f"{letter[i]}) {steps[i]}" for i in shown)
    prompts = (
        f"Put the steps to {task} in the right order for {name}: {listed}.",
        f"{name} wants to {task}. Order these steps: {listed}.",
        f"How should {name} {task}? Sort: {listed}.",
    )
    prompt = rng.choice(prompts)
    openers = ("First", "After that", "Next", "At the end")
    rows = [f"{opener}: {steps[i]}. This is step {letter[i]}." for opener, i in zip(openers, kept, strict=True)]
    final = ", ".join(letter[i] for i in kept)
    return worked_example(prompt, [f"To {task}, {name} should work like this:", *rows, f"Right order: {final}"], final)


def odd_one_out(rng: random.Random) -> Example:
    """Three words of one category and one of another."""
    name, (kind, other) = rng.choice(NAMES), rng.sample(list(KINDS), 2)
    words = [*rng.sample(KINDS[kind], 3), rng.choice(KINDS[other])]
    odd = words[-1]
    rng.shuffle(words)
    listed = ", ".join(words)
    prompts = (
        f"Which word is the odd one out: {listed}? Explain it to {name}.",
        f"{name} asks which of these words does not belong: {listed}.",
        f"Find the odd one out for {name}. Words: {listed}.",
    )
    prompt = rng.choice(prompts)
    rows = [f"- {word}: this is {with_article(KIND_OF[word])}" for word in words]
    lines = [f"Let us look at the four words, {name}:", *rows]
    lines.append(f"Three of the words belong to the group of {kind}s, but one names {with_article(other)}.")
    return worked_example(prompt, [*lines, f"The odd one out is {odd}."], odd)
