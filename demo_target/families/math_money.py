"""Word problems about money: change, discounts, prices, coins and savings."""

from __future__ import annotations

import random

from .base import ITEMS, NAMES, Example, Template, many, plural, words, worked_example
from .math_steps import add, div, sub

GOODS = words("jacket lamp chair table bicycle tent watch radio desk carpet camera backpack coat sofa mirror")


def buy_change(rng: random.Random) -> Example:
    name, kind = rng.choice(NAMES), rng.randrange(3)
    one, two = rng.sample(ITEMS, 2)
    n, m, p, q = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 8), rng.randint(2, 8)
    cost = n * p + m * q
    note = 20 if cost < 20 else 50 if cost < 50 else 100
    left, bought = note - cost, f"{n} {many(one)} at ${p} each and {m} {many(two)} at ${q} each"
    prompt = (
        f"{name} buys {bought}. {name} pays with a ${note} note. How much change does {name} get?",
        f"{name} has ${note} and buys {bought}. How much money is left?",
        f"A customer pays ${note} for {bought}. Work out the change.",
    )[kind]
    end = (f"So {name} gets ${left} in change.", f"So {name} has ${left} left.", f"Answer: the change is ${left}.")
    lines = [
        f"First find the cost of the {many(one)}: {n} x {p} = {n * p} dollars.",
        f"Then find the cost of the {many(two)}: {m} x {q} = {m * q} dollars.",
        f"Together they cost {add(n * p, m * q)} dollars.",
        f"Take that away from the ${note}: {sub(note, cost)} dollars.",
        end[kind],
    ]
    return worked_example(prompt, lines, f"${left}")


def percent_off(rng: random.Random) -> Example:
    name, thing, kind = rng.choice(NAMES), rng.choice(GOODS), rng.randrange(3)
    percent, price = rng.choice((10, 20, 25, 50)), 20 * rng.randint(1, 10)
    cut = price * percent // 100
    assert cut * 100 == price * percent
    how = {
        10: f"10 percent is one tenth, and {price} / 10 = {cut}.",
        20: f"10 percent of {price} is {price // 10}, and 20 percent is twice that: {price // 10} x 2 = {cut}.",
        25: f"25 percent is one quarter. Half of {price} is {price // 2}, and half of {price // 2} is {cut}.",
        50: f"50 percent is one half, and half of {price} is {cut}.",
    }[percent]
    prompt = (
        f"{name} wants a {thing} that costs ${price}. It is {percent}% off today. What does {name} pay?",
        f"A {thing} costs ${price}. The shop takes {percent}% off for {name}. What is the new price?",
        f"The price of a {thing} is ${price}. {name} has a coupon for {percent}% off. Find the sale price.",
    )[kind]
    end = (f"So {name} pays $", "So the new price is $", "Answer: the sale price is $")[kind] + f"{price - cut}."
    lines = [
        f"The full price of the {thing} is ${price} and the discount is {percent} percent.",
        how,
        f"So the discount is {cut} dollars.",
        f"Subtract the discount from the full price: {sub(price, cut)}.",
        end,
    ]
    return worked_example(prompt, lines, f"${price - cut}")


def unit_price(rng: random.Random) -> Example:
    name, item, kind = rng.choice(NAMES), rng.choice(ITEMS), rng.randrange(3)
    n, p, m = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 12)
    m = m + 1 if m == n else m
    prompt = (
        f"{n} {many(item)} cost ${n * p}. How much do {m} {many(item)} cost for {name}?",
        f"{name} pays ${n * p} for {n} {many(item)}. What would {m} {many(item)} cost at the same price?",
        f"At a market {name} sells {n} {many(item)} for ${n * p}. Find the price of {m} {many(item)}.",
    )[kind]
    end = (f"So {name} pays ${m * p}.", f"So it would cost ${m * p}.", f"Answer: ${m * p}")[kind]
    lines = [
        f"First find the price of one {item}.",
        f"The {n} {many(item)} cost {n * p} dollars, so divide: {div(n * p, n)}.",
        f"One {item} costs ${p}.",
        f"Now multiply by the number wanted, which is {m}: {m} x {p} = {m * p} dollars.",
        end,
    ]
    return worked_example(prompt, lines, f"${m * p}")


def coins(rng: random.Random) -> Example:
    name, place, kind = rng.choice(NAMES), rng.choice(("jar", "purse", "pocket", "drawer", "box")), rng.randrange(3)
    q, d, n = rng.randint(1, 4), rng.randint(2, 9), rng.randint(2, 9)
    held = f"{plural(q, 'quarter')}, {plural(d, 'dime')} and {plural(n, 'nickel')}"
    total = 25 * q + 10 * d + 5 * n
    prompt = (
        f"{name} has {held} in a {place}. How many cents is that?",
        f"In a {place} {name} finds {held}. What is the total in cents?",
        f"Count the coins in the {place} of {name}: {held}. Give the total in cents.",
    )[kind]
    end = (f"So {name} has {total} cents.", f"So the total is {total} cents.", f"Answer: {total} cents")[kind]
    lines = [
        "Work out the value of each kind of coin.",
        f"Quarters are worth 25 cents: {q} x 25 = {25 * q}.",
        f"Dimes are worth 10 cents: {d} x 10 = {10 * d}.",
        f"Nickels are worth 5 cents: {n} x 5 = {5 * n}.",
        f"Add quarters and dimes: {add(25 * q, 10 * d)}.",
        f"Then add the nickels: {add(25 * q + 10 * d, 5 * n)}.",
        end,
    ]
    return worked_example(prompt, lines, f"{total} cents")


def savings(rng: random.Random) -> Example:
    name, thing, kind = rng.choice(NAMES), rng.choice(GOODS), rng.randrange(3)
    week, weeks, have = rng.randint(3, 12), rng.randint(3, 12), rng.randint(5, 40)
    need = week * weeks
    goal = have + need
    prompt = (
        f"{name} has ${have} and saves ${week} each week. How many weeks until {name} can buy a ${goal} {thing}?",
        f"A {thing} costs ${goal}. {name} already has ${have} and saves ${week} a week. How long will it take?",
        f"{name} is saving for a {thing} at ${goal}, has ${have}, and adds ${week} every week. Find the weeks needed.",
    )[kind]
    end = (f"So {name} needs {weeks} weeks.", f"So it will take {weeks} weeks.", f"Answer: {weeks} weeks")[kind]
    lines = [
        f"The {thing} costs ${goal} and {name} has ${have}.",
        f"The missing amount is {sub(goal, have)} dollars.",
        f"Each week adds ${week}, so divide the missing amount by {week}.",
        f"{div(need, week)}.",
        end,
    ]
    return worked_example(prompt, lines, f"{weeks} weeks")


TEMPLATES: tuple[Template, ...] = (buy_change, percent_off, unit_price, coins, savings)
