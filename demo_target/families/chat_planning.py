"""Plans and times: schedules, meetings, reminders, weekdays, buses and the way there."""

from __future__ import annotations

import random

from .base import NAMES, Example, plural, worked_example
from .chat_words import DAYS, PLACES, clock, listing, numbered, running_sum

ACTIVITIES = (
    "reading", "swimming", "cooking", "cleaning", "drawing", "shopping", "running", "lunch", "chess", "painting",
    "gardening", "homework", "music practice", "a walk", "a nap", "yoga",
)  # fmt: skip
EVENTS = ("dinner", "chess evening", "garden party", "picnic", "film night", "concert", "birthday party", "book club")
TOPICS = ("budget", "garden", "website", "school trip", "new office", "summer party", "library", "sports day")
ERRANDS = (
    "water the plants", "feed the cat", "call the bank", "buy bread", "take the medicine", "post the letter",
    "pick up the keys", "walk the dog", "pay the rent", "wash the car", "return the book", "start the oven",
)  # fmt: skip


def day_plan(rng: random.Random) -> Example:
    """Activities one after another from a start time."""
    name, start = rng.choice(NAMES), rng.randrange(28, 48) * 15
    parts = [(activity, rng.choice((15, 30, 45, 60))) for activity in rng.sample(ACTIVITIES, rng.choice((3, 3, 4)))]
    facts = listing([f"{activity} ({length} minutes)" for activity, length in parts])
    prompts = (
        f"Make a plan for {name}. Start at {clock(start)}. Activities: {facts}.",
        f"{name} starts the day at {clock(start)} and wants to do {facts}. Please write a schedule.",
        f"Schedule {facts} for {name}, beginning at {clock(start)}. When is the end?",
    )
    prompt = rng.choice(prompts)
    lines, now = [f"Here is the plan for {name}, starting at {clock(start)}:"], start
    for number, (activity, length) in enumerate(parts, 1):
        lines.append(f"{number}. {clock(now)} to {clock(now + length)}: {activity}, {length} minutes")
        now += length
    lines.append("There are no breaks between the activities, so each one begins when the one before it ends.")
    return worked_example(prompt, [*lines, f"{name} finishes at {clock(now)}."], clock(now))


def meeting(rng: random.Random) -> Example:
    """A meeting notice whose end time is worked out."""
    sender, other = rng.sample(NAMES, 2)
    topic, day, room = rng.choice(TOPICS), rng.choice(DAYS[:5]), rng.randint(1, 20)
    start, length = rng.randrange(32, 64) * 15, rng.choice((30, 45, 60))
    end = clock(start + length)
    prompts = (
        (
            f"Write a meeting email from {sender} to {other} about the {topic}: {day}, {clock(start)}, room {room}. "
            f"It takes {length} minutes."
        ),
        (
            f"{sender} needs to meet {other} on {day} at {clock(start)} in room {room} for {length} minutes. "
            f"The topic is the {topic}. Write the email."
        ),
    )
    prompt = rng.choice(prompts)
    final = f"{day}, {clock(start)} to {end}, room {room}"
    lines = [
        f"Subject: Meeting about the {topic}",
        f"Hello {other},",
        (
            f"I would like to talk with you about the {topic}. Can we meet on {day} at {clock(start)}? "
            f"It takes {length} minutes, so we are done by {end}. I have booked a quiet room for us."
        ),
        "Kind regards,",
        sender,
        f"Details: {final}",
    ]
    return worked_example(prompt, lines, final)


def reschedule(rng: random.Random) -> Example:
    """A polite message that moves an appointment."""
    sender, other = rng.sample(NAMES, 2)
    (day, new_day), event = rng.sample(DAYS, 2), rng.choice(EVENTS)
    time, new_time = (clock(rng.randrange(16, 42) * 30) for _ in range(2))
    reason = rng.choice(("the car is broken", "the train is late", "I am ill", "I have to work", "my cat is sick"))
    prompts = (
        (
            f"Write a note by {sender} to {other}: move the {event} from {day} {time} to {new_day} {new_time}, "
            f"because {reason}."
        ),
        (
            f'{sender} tells you: "Please ask {other} to move our {event} from {day} {time} to {new_day} {new_time}. '
            f'The reason: {reason}." Write the message.'
        ),
    )
    prompt = rng.choice(prompts)
    final = f"{new_day} at {new_time}"
    lines = [
        f"Dear {other},",
        f"I am sorry, but I cannot make it to our {event} on {day} at {time}, because {reason}.",
        f"Would {new_day} suit you instead? We could start at {new_time}. Thank you for understanding.",
        f"Yours, {sender}",
        f"New time for the {event}: {final}",
    ]
    return worked_example(prompt, lines, final)


def weekday(rng: random.Random) -> Example:
    """Count days forward or back from a weekday, one at a time."""
    name, start, count = rng.choice(NAMES), rng.randrange(7), rng.randint(2, 8)
    back, event = rng.random() < 0.4, rng.choice(EVENTS)
    way = "before" if back else "after"
    prompts = (
        f"{name}'s {event} is {count} days {way} {DAYS[start]}. Which day is that?",
        f"What day is {count} days {way} {DAYS[start]}? {name} plans a {event} then.",
        f"{name} has a {event} {count} days {way} {DAYS[start]}. Name the weekday.",
    )
    prompt = rng.choice(prompts)
    sign = -1 if back else 1
    rows = [f"{plural(i, 'day')} {way}: {DAYS[(start + sign * i) % 7]}" for i in range(1, count + 1)]
    final = DAYS[(start + sign * count) % 7]
    turn = "backwards" if back else "forwards"
    lines = [f"Start at {DAYS[start]} and count {count} days {turn}, one day at a time:", *rows]
    if count > 7:
        lines.append("After seven days the week is complete and the names begin again.")
    return worked_example(prompt, [*lines, f"So {name}'s {event} is on a {final}."], final)


def bus(rng: random.Random) -> Example:
    """The first bus at or after a time."""
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    numbers = rng.sample(range(2, 60), 3)
    first = rng.randrange(84, 200)
    times = sorted(rng.sample(range(first, first + 20), 3))
    due = rng.randint(times[0] - 2, times[2])
    best = next(i for i in range(3) if times[i] >= due)
    facts = listing([f"bus {line} at {clock(5 * time)}" for line, time in zip(numbers, times, strict=True)])
    ready = clock(5 * due)
    prompts = (
        f"Timetable to the {place}: {facts}. {name} is at the stop at {ready}. Which is the first bus to catch?",
        f"{name} is at the stop at {ready} and goes to the {place}. The options are {facts}. Which bus comes first?",
    )
    prompt = rng.choice(prompts)
    rows = []
    for i in range(best + 1):
        verdict = "before" if times[i] < due else "exactly at" if times[i] == due else "after"
        result = "this one is gone" if i < best else "this one can be caught"
        rows.append(f"- Bus {numbers[i]} leaves at {clock(5 * times[i])}, which is {verdict} {ready}: {result}.")
    head = f"{name} is ready at {ready}. Go through the timetable in order and stop at the first bus that works:"
    return worked_example(
        prompt, [head, *rows, f"To reach the {place}, take bus {numbers[best]}."], f"bus {numbers[best]}"
    )


def directions(rng: random.Random) -> Example:
    """Follow turns on a grid of streets."""
    compass = ("north", "east", "south", "west")
    (start, goal), facing = rng.sample(PLACES, 2), rng.randrange(4)
    turns, blocks = [rng.choice(("left", "right")) for _ in range(2)], [rng.randint(1, 6) for _ in range(3)]
    walks = [plural(block, "block") for block in blocks]
    route = f"walk {walks[0]}, turn {turns[0]}, walk {walks[1]}, turn {turns[1]}, walk {walks[2]}"
    prompts = (
        f"From the {start} to the {goal}: face {compass[facing]}, {route}. Explain the way with compass directions.",
        (
            f"I stand at the {start} and face {compass[facing]}. I {route} and reach the {goal}. How far is it, and "
            "which way do I face?"
        ),
    )
    prompt = rng.choice(prompts)
    lines, now = [f"Start at the {start} and go {walks[0]} {compass[facing]}."], facing
    for opener, turn, walk in zip(("Then", "After that"), turns, walks[1:], strict=True):
        old, now = compass[now], (now + (1 if turn == "right" else 3)) % 4
        lines.append(f"{opener} turn {turn}: from {old} that is {compass[now]}. Go {walk} {compass[now]}.")
    final = f"{sum(blocks)} blocks, facing {compass[now]}"
    return worked_example(
        prompt,
        [*numbered(lines), f"Now you are at the {goal}. The distance is {running_sum(blocks)}.", f"Result: {final}"],
        final,
    )


def reminders(rng: random.Random) -> Example:
    """Reminders in order of time."""
    name, tasks = rng.choice(NAMES), rng.sample(ERRANDS, 4)
    times = [clock(hour * 60 + rng.choice((0, 15, 30, 45))) for hour in rng.sample(range(7, 21), 4)]
    pairs = list(zip(times, tasks, strict=True))
    facts = ", ".join(f"{task} at {time}" for time, task in pairs)
    prompts = (
        f"Put these reminders in order of time for {name}: {facts}.",
        f"{name} has to {facts}. Make a list sorted by time.",
        f"Today's reminders for {name}: {facts}. What comes first and what comes last?",
    )
    prompt = rng.choice(prompts)
    pairs.sort()
    final = f"first {pairs[0][1]}, last {pairs[-1][1]}"
    order = ", ".join(time for time, _ in pairs)
    head = f"The times from early to late are {order}. So the reminders for {name} are:"
    return worked_example(
        prompt, [head, *numbered(f"{time} - {task}" for time, task in pairs), f"In short: {final}"], final
    )
