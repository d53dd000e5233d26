"""`paradraft eval`: drafters against plain decoding on the same prompts, as tables and as results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..files import make_directory
from .options import (
    AcceptanceOption,
    BatchSizeOption,
    DateOption,
    DraftersOption,
    DraftLengthOption,
    DtypeOption,
    LimitOption,
    MaxNewTokensOption,
    ModesOption,
    PromptsOption,
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
    drafter_of,
    prompts_of,
    set_threads,
)
from .terminal import print_notes, print_origin, progress_bar


def evaluate(
    target: TargetOption = "demo",
    drafter: DraftersOption = None,
    prompts: PromptsOption = None,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    batch_size: BatchSizeOption = 1,
    max_new_tokens: MaxNewTokensOption = 256,
    draft_length: DraftLengthOption = None,
    tree: TreeOption = None,
    acceptance: AcceptanceOption = None,
    mode: ModesOption = None,
    limit: LimitOption = None,
    skip_long: Annotated[
        bool, typer.Option("--skip-long", help="leave out prompts that do not fit the context")
    ] = False,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--out", help="directory for results.json")] = None,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
) -> None:
    """Measure drafters against plain decoding. Example: `paradraft eval --drafter demo:dflash-dpace --limit 20`"""
    from ..decoding import Sampling
    from ..evaluation.measure import (
        Settings,
        check_first_turns,
        environment,
        fitting,
        measure,
        run_results,
        weights_of,
    )
    from ..evaluation.prompts import load_prompt_sets
    from ..evaluation.results import RunResult, write_results
    from ..evaluation.tables import acceptance_table, emitted_table, speed_table
    from ..models.chat import DATE_NOTE
    from .pair import load_pair

    console = Console()
    sampling, length = Sampling(temperature, top_k, top_p), draft_length_of(draft_length)
    settings = Settings(sampling, batch_size, max_new_tokens, length, seed, acceptance, tree, tuple(mode or ()))
    set_threads(threads)
    sets = load_prompt_sets(prompts or prompts_of(target), limit)
    loaded, drafters = load_pair(target, drafter or [drafter_of(target)], dtype, trust_remote_code, thinking, date)
    print_origin(console, loaded)
    if loaded.chat.writes_today:
        print_notes(console, [DATE_NOTE])
    settings.check(drafters.values())
    for i, whole in enumerate(sets if skip_long else []):
        sets[i] = fitting(whole, loaded, max_new_tokens)
        if left_out := len(whole.prompts) - len(sets[i].prompts):
            console.print(f"{whole.name}: {left_out} prompts do not fit the context and were left out")
    for prompt_set in sets:
        check_first_turns(loaded, prompt_set, max_new_tokens)
    if out is not None:
        make_directory(out)
    weights = weights_of(target, drafters)
    runs: list[RunResult] = []
    for prompt_set in sets:
        ways = 1 + sum(len(settings.modes_of(one)) for one in drafters.values())
        with progress_bar(console, prompt_set.name, prompt_set.turns * ways) as advance:
            measured = measure(loaded, drafters, prompt_set, settings, advance)
        if left_out := prompt_set.turns - len(measured[0].generations):
            console.print(f"{prompt_set.name}: {left_out} later turns had no room in the context and were not asked")
        runs += run_results(loaded, weights, measured, prompt_set, settings)
        if out is not None:  # after every set: a long run that is stopped keeps what it measured
            write_results(out / "results.json", runs, environment(loaded))
    for table in (emitted_table(runs), speed_table(runs), acceptance_table(runs)):
        console.print(table)
    if out is not None:
        console.print(f"wrote {out / 'results.json'}")
