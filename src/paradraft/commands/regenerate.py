"""`paradraft data regenerate`: the target answers prompts, by the embedded engine or by a server, resumable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from ..files import make_directory
from .options import (
    BadShareOption,
    DateOption,
    DrafterOption,
    DtypeOption,
    LimitOption,
    MaxNewTokensOption,
    SeedOption,
    TargetOption,
    TemperatureOption,
    ThinkingOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    TrustOption,
    set_threads,
)
from .terminal import print_notes, print_origin, progress_bar

if TYPE_CHECKING:
    from ..decoding import Sampling
    from ..drafters import Drafter
    from ..models import Target
    from ..text.regeneration import AnswerSettings, Regeneration, Respondent

SUMMARY = {
    "cut": "answers were cut at --max-new-tokens; training leaves them out (data.skip_cut)",
    "looping": "answers repeat themselves; training leaves them out (data.looping)",
    "empty": "answers are empty",
    "too_long": "prompts leave no room for an answer in the context and were left out",
    "refused_by_server": "prompts were refused by the server; their conversations end before them",
    "refused": "conversations ended where the chat template refused their next turn",
    "read_differently": "answers become other tokens when the template renders their text again",
}


def regenerate(
    prompts: Annotated[
        list[str], typer.Option("--prompts", help="JSONL, Parquet, owner/name or demo:train; repeatable")
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL file of the answers; compressed if its name ends in .gz")],
    target: TargetOption = "demo",
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="OpenAI-compatible server that runs the target, such as http://localhost:8000"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="the target's name on the server; default: the server's only model")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", help="environment variable that holds the server's key")
    ] = None,
    drafter: DrafterOption = None,
    limit: LimitOption = None,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    max_new_tokens: MaxNewTokensOption = 512,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="prompts answered together, without --endpoint; default: 16"),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=2, help="requests sent to the server at a time; default: 32")
    ] = None,
    thinking: ThinkingOption = None,
    date: DateOption = None,
    seed: SeedOption = 0,
    max_bad_share: BadShareOption = 0.01,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Let the target answer prompts. If killed, run the same command again: it continues, and answers nothing twice.

    Examples: `paradraft data regenerate --prompts prompts.jsonl --out answers.jsonl --drafter demo:dflash-dpace`,
    `paradraft data regenerate --target Qwen/Qwen3-4B --prompts p.jsonl --out a.jsonl --endpoint http://localhost:8000`
    """
    from dataclasses import asdict

    from ..decoding import Sampling
    from ..models.chat import load_chat
    from ..text.endpoint import Endpoint
    from ..text.provenance import identify, provenance_path
    from ..text.regeneration import AnswerSettings, Prompts, Regeneration, Respondent
    from .pair import load_pair

    console = Console(stderr=True)
    set_threads(threads)
    sampling = Sampling(temperature, top_k, top_p)
    if endpoint is not None and drafter is not None:
        raise UserError("--drafter is for the embedded engine; a server drafts by itself, if it was started so")
    if endpoint is not None and (batch_size or dtype != "auto"):
        raise UserError(
            "--batch-size and --dtype are for the embedded engine; a server has its own (see --concurrency)"
        )
    if endpoint is None and (model or key_variable or concurrency):
        raise UserError("--model, --key-variable and --concurrency are for a server; give its address with --endpoint")
    if out.suffix == ".parquet":
        raise UserError(f"--out {out}: answers are written as JSONL; let its name end in .jsonl or .jsonl.gz")
    asked = Prompts(prompts, limit, max_bad_share)
    make_directory(out.parent)
    settings = AnswerSettings(max_new_tokens, asdict(sampling), batch_size or 16, seed)
    if endpoint is None:
        names = [] if drafter is None else [drafter]
        loaded, drafters = load_pair(target, names, dtype, trust_remote_code, thinking, date)
        print_origin(console, loaded)
        respondent = embedded(loaded, drafters, sampling, settings)
    else:  # only tokenizer and configuration are read here; the weights are the server's
        chat, context = load_chat(target, trust_remote_code, thinking, date)
        stops = tuple(chat.decode([token]) for token in sorted(chat.stop_tokens))
        samples = {"model": model, "stop_texts": stops, "key_variable": key_variable, **settings.sampling}
        server = Endpoint(endpoint, max_new_tokens, **samples)
        who = {"answered_by": "a server", "served_model": server.model}
        context = min(context, server.context_length or context)
        respondent = Respondent(server, chat, context, concurrency or 32, who)
    run = Regeneration(out, identify(target), asked, respondent, settings)
    print_notes(console, run.notes)
    if run.finished:
        console.print(f"nothing to do: {out} is finished")
        return
    with run:
        print_notes(console, [f"left out: {why}" for why in answer_with_progress(console, run)[:5]])
        totals = run.finish()
    beside = provenance_path(out).name
    console.print(f"{totals['answers']:,} answers, {totals['tokens']:,} tokens in {out} ({beside} beside it)")
    for name, text_of in SUMMARY.items():
        if totals.get(name):
            console.print(f"{totals[name]:,} {text_of}")


def answer_with_progress(console: Console, run: Regeneration) -> list[str]:
    """A bar over conversations with the rate of tokens; returns why some prompts were refused."""
    total, started, tokens = len(run.conversations), time.monotonic(), 0
    if run.done:
        console.print(f"continuing: {run.done} of {total} are answered already")
    with progress_bar(console, "answering", total, run.done) as advance:

        def report(conversations: int, written: int) -> None:
            nonlocal tokens
            tokens += written
            advance(conversations, f"{tokens / max(time.monotonic() - started, 1e-3):,.0f} tokens/s")

        return run.answer(report)


def embedded(target: Target, drafters: dict[str, Drafter], sampling: Sampling, settings: AnswerSettings) -> Respondent:
    """The engine of this package, with the drafter if there is one."""
    from ..decoding import Engine
    from ..decoding.answerer import EmbeddedAnswerer
    from ..models.names import drafter_directory
    from ..text.provenance import fingerprint
    from ..text.regeneration import Respondent

    engine = Engine(target, next(iter(drafters.values()), None), sampling, max_rows=settings.batch_size)
    who = {
        "answered_by": "the embedded engine",
        "dtype": str(target.dtype).removeprefix("torch."),
        "batch_size": settings.batch_size,
        "drafter": next((fingerprint(drafter_directory(name)) for name in drafters), None),
    }
    return Respondent(EmbeddedAnswerer(engine, settings.max_new_tokens), target.chat, target.context_length, 1, who)
