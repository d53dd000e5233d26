"""The target answers prompts: units of work in a fixed order and composition, so that a run can be killed anywhere.

The file at the end does not depend on how often the work was interrupted: what a unit holds, its seed and its place
are given by the prompts and the settings alone, and an interrupted unit is done again whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from ..errors import UserError
from ..models.chat import ChatText
from .conversations import Conversation, Message, turns_of
from .journal import Journal
from .loops import is_looping
from .render import content_of, render_prompt

WINDOW = 32  # units whose prompts are sorted by length together


@dataclass(frozen=True)
class Answer:
    """text: without its stop token. tokens: how many the target wrote. stopped: it ended by itself.

    token_ids: what it wrote, without the stop token, where known.
    """

    text: str
    tokens: int
    stopped: bool
    token_ids: tuple[int, ...] | None = None


class RefusedPrompt(UserError):
    """A server will not answer this prompt, whatever it says to others."""


class Answerer(Protocol):
    """Whatever can answer: the embedded engine, or a server. Must give the same answers for the same call."""

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Answer]:
        """One answer a prompt (token ids), in order."""


@dataclass(frozen=True)
class Job:
    """What is asked and how it is rendered. longest: tokens a prompt may have so that its answer fits."""

    conversations: Sequence[Conversation]
    chat: ChatText
    longest: int
    seed: int = 0


@dataclass
class Dialogue:
    """One conversation while it is answered: the user's turns still to come, and what was said so far."""

    number: int
    source: Conversation
    turns: list[list[Message]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    finish: str = ""

    def take_back(self) -> None:
        """End the conversation with its last answer, because a server refused the prompt behind it."""
        while self.messages[-1]["role"] != "assistant":
            self.messages.pop()
        self.figures["refused_by_server"] += 1

    def record(self) -> dict[str, Any] | None:
        """What is written; None where nothing could be answered."""
        if not self.finish:
            return None
        found: dict[str, Any] = {"id": self.source.id} if self.source.id is not None else {}
        found["messages"] = self.messages
        if self.source.tools:
            found["tools"] = list(self.source.tools)
        return {**found, "finish_reason": self.finish}


def plan_units(lengths: Sequence[int], unit_size: int) -> list[list[int]]:
    """Units of numbers, like lengths together, in windows of the given order so that memory stays bounded."""
    units = []
    size = unit_size * WINDOW
    for start in range(0, len(lengths), size):
        window = sorted(range(start, min(start + size, len(lengths))), key=lambda i: (lengths[i], i))
        units += [window[i : i + unit_size] for i in range(0, len(window), unit_size)]
    return units


def answer_unit(job: Job, unit: Sequence[int], answerer: Answerer) -> list[tuple[int, dict[str, Any] | None, Any]]:
    """All conversations of a unit, turn by turn, each as one batch: (number, record, figures)."""
    dialogues = [Dialogue(i, job.conversations[i], turns_of(job.conversations[i])) for i in unit]
    active, turn = dialogues, 0
    while active:
        asked = {d.number: next_prompt(job, d) for d in active}
        active = [d for d in active if asked[d.number] is not None]
        prompts = [ids for d in active if (ids := asked[d.number]) is not None]
        try:
            answers = answerer.answer(prompts, unit_seed(job.seed, unit[0], turn)) if prompts else []
        except RefusedPrompt:
            if turn == 0:
                raise
            for dialogue in active:  # what was answered before is kept
                dialogue.take_back()
            break
        for dialogue, answer in zip(active, answers, strict=True):
            take(job, dialogue, answer)
        active = [d for d in active if d.turns and d.finish == "stop"]
        turn += 1
    return [(d.number, d.record(), dict(d.figures)) for d in dialogues]


def next_prompt(job: Job, dialogue: Dialogue) -> list[int] | None:
    """Ids of the next prompt. None ends the conversation: no room is left for an answer, or the template refuses it."""
    messages = [*dialogue.messages, *dialogue.turns[0]]
    try:
        ids = render_prompt(job.chat, messages, dialogue.source.tools)
    except UserError:
        dialogue.figures["refused"] += 1
        return None
    if len(ids) > job.longest:
        dialogue.figures["too_long"] += 1
        return None
    dialogue.messages, dialogue.turns = messages, dialogue.turns[1:]
    return ids


def take(job: Job, dialogue: Dialogue, answer: Answer) -> None:
    tools = dialogue.source.tools
    content, same = content_of(job.chat, dialogue.messages, tools, answer.text)
    dialogue.messages.append({"role": "assistant", "content": content})
    dialogue.finish = "stop" if answer.stopped else "length"
    reread = answer.token_ids is None or tuple(job.chat.encode(answer.text)) == answer.token_ids
    loops = is_looping(answer.token_ids or job.chat.encode(answer.text))
    dialogue.figures.update(answers=1, tokens=answer.tokens, cut=int(not answer.stopped), looping=int(loops))
    dialogue.figures.update(empty=int(not answer.text.strip()), read_differently=int(not (same and reread)))


def unit_seed(seed: int, first: int, turn: int) -> int:
    """Of everything random in one batch; below 2^31, the most that servers take."""
    digest = hashlib.sha256(f"{seed}/{first}/{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def prompts_hash(conversations: Sequence[Conversation]) -> str:
    """12 hexadecimal digits over everything that is asked."""
    digest = hashlib.sha256()
    for conversation in conversations:
        asked = [conversation.id, turns_of(conversation), list(conversation.tools)]
        digest.update(json.dumps(asked, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def run_units(
    job: Job,
    units: Sequence[Sequence[int]],
    answerer: Answerer,
    journal: Journal,
    report: Callable[[int, int], None] = lambda conversations, tokens: None,
    workers: int = 1,
    refusals: int = 0,
) -> list[str]:
    """Answer every unit that the journal does not hold yet; with several workers, so many at a time.

    A unit whose first prompt a server refuses is left out; the reasons are returned, and more than `refusals` of them
    raise UserError. Refused units enter the journal last, so that a run that ended before asks for them again.
    """
    done = journal.done()
    answered = bool(done)
    waiting = [unit for unit in units if unit[0] not in done]
    refused: list[int] = []

    def attempt(unit: Sequence[int]) -> list[tuple[int, dict[str, Any] | None, Any]] | str:
        try:
            return answer_unit(job, unit, answerer)
        except RefusedPrompt as refusal:
            refused.extend(unit)
            return f"{job.conversations[unit[0]].place}: {refusal}"

    reasons: list[str] = []
    for result in map(attempt, waiting) if workers == 1 else in_parallel(attempt, waiting, workers):
        if isinstance(result, str):
            reasons.append(result)
            if len(reasons) > refusals:
                raise UserError(f"{result} ({len(reasons)} prompts were refused; --max-bad-share tolerates more)")
            if not answered and len(reasons) >= max(8, workers):
                raise UserError(f"{result} (and not one of the first {len(reasons)} prompts was answered)")
            continue
        answered = True
        journal.add(result)
        report(len(result), sum(figures.get("tokens", 0) for _, _, figures in result))
    journal.add((number, None, {"refused_by_server": 1}) for number in refused)
    return reasons


def in_parallel(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results in the order in which they are ready; the first error is raised and stops what has not begun.

    The threads are daemons, not a pool's: a process that ends does not wait for requests that hang.
    """
    waiting: SimpleQueue[Any] = SimpleQueue()
    finished: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    stopped = threading.Event()

    def serve() -> None:
        while (item := waiting.get()) is not None and not stopped.is_set():
            try:
                finished.put((work(item), None))
            except BaseException as error:  # raised where the results are taken
                finished.put((None, error))

    upcoming = iter(items)
    for _ in range(workers):
        threading.Thread(target=serve, daemon=True).start()
    try:
        for item in itertools.islice(upcoming, 2 * workers):
            waiting.put(item)
        for _ in items:
            result, error = finished.get()
            if error is not None:
                raise error
            for item in itertools.islice(upcoming, 1):
                waiting.put(item)
            yield result
    finally:
        stopped.set()
        for _ in range(workers):
            waiting.put(None)
