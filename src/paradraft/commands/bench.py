"""`paradraft bench`: latency and throughput over batch sizes and draft lengths, as a table and as bench.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from ..files import make_directory
from .options import (
    DateOption,
    DtypeOption,
    ModeOption,
    PromptsOption,
    SeedOption,
    TemperatureOption,
    ThinkingOption,
    ThreadsOption,
    TrustOption,
    draft_length_of,
    drafter_of,
    prompts_of,
    set_threads,
)
from .terminal import print_origin, progress_bar

if TYPE_CHECKING:
    from ..decoding import DraftLength

CONTEXT = 256  # tokens of a prompt with --synthetic-acceptance, unless told


def bench(
    target: Annotated[
        str, typer.Option("--target", help="as elsewhere, or random:qwen3-4b, random:qwen3-8b, random:llama-3.1-8b")
    ] = "demo",
    drafter: Annotated[
        str | None, typer.Option("--drafter", help="as elsewhere, or random:dflash, random:pard2")
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", metavar="N,N,...", help="answers at a time, each timed")
    ] = "1,4,16",
    draft_lengths: Annotated[
        str | None,
        typer.Option(
            "--draft-lengths",
            metavar="auto,K,...",
            help="drafted tokens per round, each timed; without it auto, 2, 4 and 7, as far as the drafter goes",
        ),
    ] = None,
    synthetic_acceptance: Annotated[
        float | None,
        typer.Option(
            "--synthetic-acceptance",
            metavar="P",
            help="accept each drafted token with this probability, for times alone: the text is not the target's",
        ),
    ] = None,
    prompts: PromptsOption = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="tokens of a prompt with --synthetic-acceptance; default: 256"),
    ] = None,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=2, help="tokens of an answer, at most")] = 128,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="batches that are timed at each size")] = 2,
    mode: ModeOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--out", help="directory for bench.json")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    trust_remote_code: TrustOption = False,
    thinking: ThinkingOption = None,
    date: DateOption = None,
) -> None:
    """Time plain and drafted decoding over batch sizes and draft lengths.

    Example: `paradraft bench --target demo --drafter demo:dflash-dpace --batch-sizes 1,4 --draft-lengths auto,4`
    """
    from ..decoding import Sampling
    from ..evaluation.bench import (
        BENCH_FILE,
        BenchSettings,
        bench_json,
        bench_results,
        lengths_of,
        write_bench,
    )
    from ..evaluation.bench import bench as run_bench
    from ..evaluation.bench_report import bench_sentences, bench_table
    from ..evaluation.measure import check_first_turns, interleaved
    from ..evaluation.prompts import load_prompt_sets
    from ..evaluation.shapes import PREFIX, is_random, random_pair, synthetic_prompts
    from .pair import load_pair

    settings = BenchSettings(
        whole_numbers(batch_sizes),
        lengths_in(draft_lengths),
        Sampling(temperature),
        max_new_tokens,
        repeats,
        synthetic_acceptance,
        seed,
    )
    if synthetic_acceptance is not None and prompts:
        raise UserError("--synthetic-acceptance makes prompts of its own; leave out --prompts, or it")
    if synthetic_acceptance is None and context is not None and not is_random(target):
        raise UserError("--context is for --synthetic-acceptance; prompts have their own lengths")
    console = Console(stderr=json)
    if out is not None:
        make_directory(out)
    set_threads(threads)
    named = drafter
    if named is None:
        named = f"{PREFIX}dflash" if is_random(target) else drafter_of(target)
    if is_random(target):
        if synthetic_acceptance is None:
            raise UserError("random weights accept nothing; say with --synthetic-acceptance P what is accepted")
        loaded, drafters = random_pair(target, [named], dtype)
    else:
        loaded, drafters = load_pair(target, [named], dtype, trust_remote_code, thinking, date)
        print_origin(console, loaded)
    checked = drafters[named]
    if mode is not None:
        checked.set_mode(mode)
    if synthetic_acceptance is not None:
        asked = synthetic_prompts(loaded.vocabulary_size, context or CONTEXT)
    else:
        sets = load_prompt_sets(prompts or prompts_of(target))
        for prompt_set in sets:
            check_first_turns(loaded, prompt_set, max_new_tokens)
        asked = interleaved(loaded, sets, max(64, 2 * max(settings.batch_sizes)))
    batches = len(settings.batch_sizes) * repeats * (1 + len(lengths_of(checked, settings)))
    with progress_bar(console, "batches", batches) as advance:
        runs = run_bench(loaded, checked, asked, settings, advance)
    results = bench_results(loaded, checked, (target, named), settings, runs)
    if out is not None:
        write_bench(out / BENCH_FILE, results)
    if json:
        print(bench_json(results))
        return
    console.print(bench_table(results))
    for sentence in bench_sentences(results):
        console.print(sentence)
    if out is not None:
        console.print(f"wrote {out / BENCH_FILE}")


def parts_of(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError("--batch-sizes and --draft-lengths name at least one, such as 1,4,16")
    return parts


def lengths_in(text: str | None) -> tuple[DraftLength, ...] | None:
    """What --draft-lengths says."""
    if text is None:
        return None
    return tuple(length for part in parts_of(text) if (length := draft_length_of(part)) is not None)


def whole_numbers(text: str) -> tuple[int, ...]:
    parts = parts_of(text)
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--batch-sizes must be whole numbers with commas between, such as 1,4,16, not {text!r}")
    return tuple(int(part) for part in parts)
