"""`paradraft generate`: answer one prompt, and with --show-rounds show how it was drafted."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..errors import UserError
from .options import (
    AcceptanceOption,
    DateOption,
    DrafterOption,
    DtypeOption,
    MaxNewTokensOption,
    ModeOption,
    SeedOption,
    TargetOption,
    TemperatureOption,
    ThinkingOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    TreeOption,
    TrustOption,
    draft_length_of,
    paying_draft_length,
    set_threads,
)
from .terminal import print_origin


def generate(
    prompt: Annotated[str, typer.Argument(help="what to ask")],
    target: TargetOption = "demo",
    drafter: DrafterOption = None,
    show_rounds: Annotated[
        bool, typer.Option("--show-rounds", help="colour the answer by rounds and list the drafts")
    ] = False,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    max_new_tokens: MaxNewTokensOption = 256,
    draft_length: Annotated[
        str | None,
        paying_draft_length("above temperature 0, so that the seed repeats the text, and with --tree NODES"),
    ] = None,
    tree: TreeOption = None,
    acceptance: AcceptanceOption = None,
    mode: ModeOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
) -> None:
    """Answer one prompt. Example: `paradraft generate "What is 17 + 25?" --drafter demo:dflash-dpace --show-rounds`"""
    from ..decoding import Engine, Sampling
    from ..decoding.length import AUTO
    from ..evaluation.tables import rounds_text
    from ..text.render import render_prompt
    from .pair import load_pair

    set_threads(threads)
    length = draft_length_of(draft_length)
    sampling = Sampling(temperature, top_k, top_p)
    if not prompt.strip():
        raise UserError("the prompt is empty; give the text to answer")
    if drafter is None and any(option is not None for option in (mode, draft_length, tree, acceptance)):
        raise UserError(
            "--mode, --draft-length, --tree and --acceptance say how drafts are made and kept; give a drafter with "
            "--drafter, or leave them out"
        )
    loaded, drafters = load_pair(target, [] if drafter is None else [drafter], dtype, trust_remote_code, thinking, date)
    print_origin(Console(stderr=True), loaded)
    drafting = None if drafter is None else drafters[drafter]
    if drafting is not None and mode is not None:
        drafting.set_mode(mode)
    tokenizer = loaded.chat.tokenizer
    if length is None and not tree and sampling.greedy:
        length = AUTO  # above temperature 0 the seed would not give the same text again
    engine = Engine(loaded, drafting, sampling, length, seed, acceptance=acceptance, tree=tree)
    ids = render_prompt(loaded.chat, [{"role": "user", "content": prompt}])
    generation = engine.generate([ids], max_new_tokens)[0]
    if not show_rounds:
        print(tokenizer.decode(generation.tokens, skip_special_tokens=True))
        return
    console = Console()
    console.print(rounds_text(tokenizer, generation))
    for i, r in enumerate(generation.rounds, 1):
        drafts = [list(r.drafted)] if r.depth is None else [[token] for token in r.drafted]
        shown = " ".join(repr(tokenizer.decode(draft)) for draft in drafts)
        console.print(Text(f"{i:4d}  kept {r.kept} of {len(r.drafted)}: {shown}"))
    emitted = sum(r.emitted for r in generation.rounds)
    console.print(
        f"{len(generation.tokens)} tokens, {len(generation.rounds)} rounds, "
        f"{emitted / max(1, len(generation.rounds)):.2f} tokens a round, {engine.seconds.decode:.2f} s"
    )
