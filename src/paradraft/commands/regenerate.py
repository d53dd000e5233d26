"""`data regenerate`: the target answers prompts, by the embedded engine or by a server, resumable at any moment."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..decoding import Engine, Sampling
from ..drafters import load_drafter
from ..errors import UserError
from ..files import make_directory
from ..models import Target
from ..models.chat import DATE_NOTE, ChatText, load_chat
from ..models.names import drafter_directory
from ..text.conversations import Conversation, turns_of
from ..text.endpoint import Endpoint
from ..text.journal import Journal, check_same_settings, remove_journal
from ..text.provenance import (
    Provenance,
    content_hash,
    fingerprint,
    identify,
    provenance_path,
    read_provenance,
    write_provenance,
)
from ..text.regenerate import Answer, Answerer, Job, plan_units, prompts_hash, run_units
from ..text.render import render_prompt
from ..text.sources import Bad, Reading, check_bad_share, read_source


@dataclass(frozen=True)
class RegenerateRequest:
    target: str
    prompts: Sequence[str]
    out: Path
    sampling: Sampling
    max_new_tokens: int = 1024
    endpoint: str | None = None
    model: str | None = None
    key_variable: str | None = None
    drafter: str | None = None
    limit: int | None = None
    batch_size: int = 16
    workers: int = 32
    thinking: bool | None = None
    date: datetime.date | None = None
    seed: int = 0
    max_bad_share: float = 0.01
    dtype: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Setup:
    """An answerer with what is needed to ask it; `who` joins the settings that a resumed run must share."""

    answerer: Answerer
    chat: ChatText
    context_length: int
    workers: int
    who: dict[str, Any]


class EmbeddedAnswerer:
    """The engine of this package, with a drafter or without; every call is one batch with its own seed."""

    def __init__(self, engine: Engine, max_new_tokens: int) -> None:
        self.engine, self.max_new_tokens = engine, max_new_tokens

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[Answer]:
        self.engine.generator.manual_seed(seed)
        answers = []
        for generation in self.engine.generate(prompts, self.max_new_tokens):
            written = generation.tokens[:-1] if generation.stopped else generation.tokens
            text = self.engine.target.chat.decode(written)
            answers.append(Answer(text, len(generation.tokens), generation.stopped, tuple(written)))
        return answers


def run_regenerate(request: RegenerateRequest) -> None:
    """Answer every prompt and write the file; what an earlier run with the same settings answered is kept."""
    console = Console(stderr=True)
    if request.endpoint is not None and request.drafter is not None:
        raise UserError("--drafter is for the embedded engine; a server drafts by itself, if it was started so")
    readings = [read_source(name, request.limit, prompts=True) for name in request.prompts]
    check_bad_share(readings, request.max_bad_share, request.prompts)
    make_directory(request.out.parent)
    setup = over_a_server(request) if request.endpoint is not None else embedded(request)
    if setup.chat.writes_today:
        console.print(f"[yellow]note:[/] {DATE_NOTE}")
    lengths = [length for reading in readings for length in first_lengths(setup.chat, reading)]
    for note in check_bad_share(readings, request.max_bad_share, request.prompts):
        console.print(f"[yellow]note:[/] {escape(note)}")
    conversations = [conversation for reading in readings for conversation in reading.conversations]
    settings = settings_of(request, setup, conversations)
    if finished(request.out, settings):
        remove_journal(request.out)
        console.print(f"nothing to do: {request.out} is finished")
        return
    journal = Journal(request.out, settings)
    longest = setup.context_length - request.max_new_tokens
    job = Job(conversations, setup.chat, longest, request.seed)
    units = plan_units(lengths, request.batch_size) if setup.workers == 1 else [[i] for i in range(len(lengths))]
    try:
        refused = answer_all(setup, job, units, journal, console, int(request.max_bad_share * len(conversations)))
        totals = journal.totals()
        if not totals.get("answers"):
            journal.remove()
            if refused:
                raise UserError(refused[0])
            raise UserError(
                f"no prompt leaves room for an answer of {request.max_new_tokens} tokens; lower --max-new-tokens"
            )
        written = journal.write_output()
        provenance = provenance_of(request, setup, settings, totals, len(conversations))
        write_provenance(request.out, replace(provenance, content=content_hash(written)))
        os.replace(written, request.out)
    except BaseException:
        if isinstance(setup.answerer, Endpoint):
            setup.answerer.give_up()
        journal.close()
        raise
    journal.remove()
    for line in summary(request.out, totals):
        console.print(line)


def first_lengths(chat: ChatText, reading: Reading) -> list[int]:
    """Tokens of each conversation's first prompt; one that the template refuses joins the bad records."""
    lengths, kept = [], []
    for conversation in reading.conversations:
        turns = turns_of(conversation)
        try:
            if not turns:
                raise UserError("there is no user message in front of the first result of a tool")
            lengths.append(len(render_prompt(chat, turns[0], conversation.tools)))
            kept.append(conversation)
        except UserError as error:
            reading.bad.append(Bad(conversation.place, str(error)))
    reading.conversations = kept
    return lengths


def answer_all(
    setup: Setup, job: Job, units: Sequence[Sequence[int]], journal: Journal, console: Console, refusals: int
) -> list[str]:
    total, done = len(job.conversations), len(journal.done())
    if done:
        console.print(f"going on: {done} of {total} are answered already")
    with answering(console, total, done) as report:
        refused = run_units(job, units, setup.answerer, journal, report, setup.workers, refusals)
    for why in refused[:5]:
        console.print(f"[yellow]note:[/] left out: {escape(why)}")
    return refused


@contextmanager
def answering(console: Console, total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with count, time left and rate; yields the function that is told (conversations, tokens)."""
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=console, transient=True) as progress:
        task = progress.add_task("answering", total=total, completed=done, rate="")
        state = progress.tasks[0]
        counted = 0

        def report(conversations: int, tokens: int) -> None:
            nonlocal counted
            counted += tokens
            seconds = max(state.elapsed or 0.0, 1e-3)
            progress.update(task, advance=conversations, rate=f"{counted / seconds:,.0f} tokens/s")

        yield report


def embedded(request: RegenerateRequest) -> Setup:
    directory = None if request.drafter is None else drafter_directory(request.drafter)
    target = Target.load(request.target, request.dtype, None, request.trust_remote_code, request.thinking, request.date)
    drafter = None if directory is None else load_drafter(directory, target)
    engine = Engine(target, drafter, request.sampling)
    who = {
        "answered_by": "the embedded engine",
        "dtype": str(target.dtype).removeprefix("torch."),
        "batch_size": request.batch_size,
        "drafter": None if directory is None else fingerprint(directory),
    }
    answerer = EmbeddedAnswerer(engine, request.max_new_tokens)
    return Setup(answerer, target.chat, target.context_length, 1, who)


def over_a_server(request: RegenerateRequest) -> Setup:
    """Only the tokenizer and the configuration of the target are read here; its weights are the server's."""
    chat, context = load_chat(request.target, request.trust_remote_code, request.thinking, request.date)
    sampling = request.sampling
    assert request.endpoint is not None
    server = Endpoint(
        url=request.endpoint,
        max_new_tokens=request.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        model=request.model,
        stop_texts=tuple(chat.decode([token]) for token in sorted(chat.stop_tokens)),
        key_variable=request.key_variable,
    )
    who = {"answered_by": "a server", "served_model": server.model}
    return Setup(
        server,
        chat,
        min(context, server.context_length or context),
        max(2, request.workers),
        who,
    )


def settings_of(request: RegenerateRequest, setup: Setup, conversations: Sequence[Conversation]) -> dict[str, Any]:
    """All that the answers depend on; a run goes on only where all of it is the same."""
    return {
        "target": asdict(identify(request.target)),
        "date": None if request.date is None else request.date.isoformat(),  # first: it changes the template's hash
        "template_hash": setup.chat.template_hash,
        "thinking": request.thinking,
        "prompts": prompts_hash(conversations),
        **asdict(request.sampling),
        "max_new_tokens": request.max_new_tokens,
        "seed": request.seed,
        **setup.who,
    }


def finished(out: Path, settings: dict[str, Any]) -> bool:
    """The output is there and was made with these settings; any other file in its place is an error."""
    if not out.exists():
        return False
    found = read_provenance(out)
    if found is None or "settings" not in found.details:
        raise UserError(f"{out} exists and is no file of this command; choose another --out or remove it")
    check_same_settings(found.details["settings"], settings, out)
    return True


def provenance_of(
    request: RegenerateRequest, setup: Setup, settings: dict[str, Any], totals: dict[str, int], asked: int
) -> Provenance:
    details = {
        "settings": settings,
        "prompts": list(request.prompts),
        "conversations": asked,
        **totals,
        "endpoint": request.endpoint,
        "versions": {name: version(name) for name in ("paradraft", "torch", "transformers")},
    }
    return Provenance(identify(request.target), settings["template_hash"], request.thinking, details)


def summary(out: Path, totals: dict[str, int]) -> list[str]:
    lines = [
        f"{totals['answers']:,} answers, {totals['tokens']:,} tokens in {out} ({provenance_path(out).name} beside it)"
    ]
    for name, text in (
        ("cut", "answers were ended by --max-new-tokens; their end is not learned"),
        ("empty", "answers are empty"),
        ("too_long", "prompts left no room for an answer and were left out"),
        ("refused_by_server", "prompts were refused by the server; their conversations end before them"),
        ("refused", "conversations ended where the chat template refused their next turn"),
        ("read_differently", "answers are other tokens when the template renders their text again"),
    ):
        if totals.get(name):
            lines.append(f"{totals[name]:,} {text}")
    return lines
