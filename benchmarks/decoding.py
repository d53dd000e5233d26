"""Ways of decoding side by side, on the same prompts in one run: Transformers' own and this engine's.

python benchmarks/decoding.py --target demo --drafter demo:dflash-dpace --assistant demo:vanilla \
    --prompts demo:math --prompts demo:code --lengths 4,9,auto --tree 16 --out benchmarks/results/decoding-demo.json

Transformers runs a copy of the target as it loads it: plain `generate`, assisted generation with a draft model, prompt
lookup (the last two for single prompts only, and at its own default settings unless `--assistant-length` says
otherwise). This engine decodes plainly, with each fixed draft length, with block verification if `--block` asks for it,
with trees of `--tree` nodes and, where `--lengths` has auto, with as many tokens as pay: at temperature 0 of trees and
of chains, above it of chains and, if `--tree` is given, of trees. On every few prompts all ways run one after the
other, beginning with another one each time, so that a machine that others use hurts all alike. Times are whole calls,
prefill included, since Transformers does not tell them apart; speed-ups are therefore lower than those of `paradraft
eval`. With batches the calls get PARTS times as many prompts: this engine takes the next one when a row is free,
Transformers one batch after the other. With `--repeats` every call is made that often; the median of its times counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from paradraft.commands.options import draft_length_of
from paradraft.commands.pair import load_pair
from paradraft.decoding import Engine, Generation, Sampling
from paradraft.decoding.length import AUTO
from paradraft.drafters import Drafter
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment, first_turn_ids, fitting, weights_of
from paradraft.evaluation.prompts import load_prompts
from paradraft.evaluation.statistics import emitted_length, mean_draft_length
from paradraft.evaluation.ways import COLUMNS, OWN, TRANSFORMERS, WayRun, way_cells
from paradraft.files import write_text
from paradraft.models import Target
from paradraft.models.loading import load_causal_lm, moved
from paradraft.models.names import drafter_directory, target_name

Answers = list[list[int]]
Way = Callable[[Sequence[list[int]], list[int]], Answers]
"""Prompts and a seed for each -> their answers, stop tokens included."""

PARTS = 3  # batches in a call, where rows are refilled
LOOKED_UP = 10  # tokens that prompt lookup proposes at most, as in Transformers' documentation


def engine_way(engine: Engine, new: int, written: list[Generation]) -> Way:
    """Adds what it wrote to `written`."""

    def answer(prompts: Sequence[list[int]], seeds: list[int]) -> Answers:
        found = engine.generate(prompts, new, seeds=seeds)
        written.extend(found)
        return [generation.tokens for generation in found]

    return answer


def transformers_way(target: Target, model: Any, rows: int, new: int, sampling: Sampling, **settings: Any) -> Way:
    """`generate` of a model as Transformers loads it, in batches of so many rows."""
    stops = sorted(target.stop_tokens)
    pad = stops[0] if stops else 0
    chances: dict[str, Any] = {"do_sample": not sampling.greedy}
    if not sampling.greedy:
        chances |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}

    def answer(prompts: Sequence[list[int]], seeds: list[int]) -> Answers:
        starts = range(0, len(prompts), rows)
        return [found for n in starts for found in batch(prompts[n : n + rows], seeds[n : n + rows])]

    def batch(prompts: Sequence[list[int]], seeds: list[int]) -> Answers:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=target.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=target.device)
        torch.manual_seed(seeds[0])
        output = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            eos_token_id=stops or None,
            pad_token_id=pad,
            **chances,
            **settings,
        )
        return [up_to_stop(row, target.stop_tokens) for row in output[:, longest:].tolist()]

    return answer


def draft_always(assistant: Any, length: int) -> None:
    """Transformers would change the length as it goes and end drafts that it is not sure of."""
    settings = assistant.generation_config
    settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = length, "constant"
    settings.assistant_confidence_threshold = 0.0


def up_to_stop(tokens: list[int], stops: frozenset[int] | set[int]) -> list[int]:
    end = next((n for n, token in enumerate(tokens, 1) if token in stops), len(tokens))
    return tokens[:end]


def ways_of(
    arguments: argparse.Namespace, target: Target, drafters: dict[str, Drafter], written: dict[str, list[Generation]]
) -> dict[str, Way]:
    sampling, new, rows = Sampling(arguments.temperature), arguments.max_new_tokens, arguments.batch_size
    model = moved(load_causal_lm(target_name(arguments.target), target.dtype, "target", False), target.device).eval()
    ways = {TRANSFORMERS: transformers_way(target, model, rows, new, sampling)}
    if rows == 1:
        if arguments.assistant:
            directory = str(drafter_directory(arguments.assistant))
            assistant = moved(load_causal_lm(directory, target.dtype, "assistant", False), target.device).eval()
            if arguments.assistant_length:
                draft_always(assistant, arguments.assistant_length)
            ways["transformers assisted"] = transformers_way(
                target, model, rows, new, sampling, assistant_model=assistant
            )
        ways["transformers prompt lookup"] = transformers_way(
            target, model, rows, new, sampling, prompt_lookup_num_tokens=LOOKED_UP
        )
    engines = {OWN: Engine(target, None, sampling, max_rows=rows)}
    for name, drafter in drafters.items():
        for length in arguments.lengths.split(","):
            engines[f"{name} K={length}"] = Engine(target, drafter, sampling, draft_length_of(length), max_rows=rows)
            if length == AUTO and sampling.greedy and drafter.parallel:  # then auto drafts trees
                engines[f"{name} K=auto chains"] = Engine(target, drafter, sampling, AUTO, max_rows=rows, tree=0)
            if arguments.block:
                engines[f"{name} K={length} block"] = Engine(
                    target, drafter, sampling, draft_length_of(length), max_rows=rows, acceptance="block"
                )
        for nodes in arguments.tree or ():
            engines[f"{name} tree of {nodes}"] = Engine(target, drafter, sampling, max_rows=rows, tree=nodes)
            if AUTO in arguments.lengths.split(",") and not sampling.greedy:
                engines[f"{name} tree of up to {nodes}"] = Engine(
                    target, drafter, sampling, AUTO, max_rows=rows, tree=nodes
                )
    for way, engine in engines.items():
        ways[way] = engine_way(engine, new, written.setdefault(way, []))
    return ways


def measure(
    ways: dict[str, Way], prompts: Sequence[list[int]], batch_size: int, name: str, repeats: int = 1
) -> list[WayRun]:
    """Seconds of every way on every part of the prompts; the first batch runs once before, untimed."""
    runs = {way: WayRun(name, way, len(prompts)) for way in ways}
    answers: dict[str, Answers] = {way: [] for way in ways}
    for way in ways.values():
        way(prompts[:batch_size], list(range(batch_size)))
    size = batch_size * (PARTS if batch_size > 1 else 1)
    for number, start in enumerate(range(0, len(prompts), size)):
        part = prompts[start : start + size]
        seconds: dict[str, list[float]] = defaultdict(list)
        for turn in range(number, number + repeats):
            turn %= len(ways)
            for way in [*list(ways)[turn:], *list(ways)[:turn]]:
                started = time.perf_counter()
                found = ways[way](part, list(range(start, start + len(part))))
                seconds[way].append(time.perf_counter() - started)
                if len(seconds[way]) == 1:
                    answers[way] += found
        for way, run in runs.items():
            run.seconds += median(seconds[way])
    for way, run in runs.items():
        run.tokens = sum(map(len, answers[way]))
        run.tokens_per_second = run.tokens / run.seconds
        pairs = zip(answers[way], answers[TRANSFORMERS], strict=True)
        run.same_text = sum(own == theirs for own, theirs in pairs) / len(prompts)
    for run in runs.values():
        run.over_transformers = run.tokens_per_second / runs[TRANSFORMERS].tokens_per_second
        run.over_paradraft_plain = run.tokens_per_second / runs[OWN].tokens_per_second
    return list(runs.values())


def table_of(runs: Sequence[WayRun], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "way" else "right")
    for run in runs:
        table.add_row(*way_cells(run))
    return table


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--drafter", action="append", help="repeatable; default: demo:dflash-dpace")
    parser.add_argument("--assistant", help="draft model for Transformers, a causal LM such as demo:vanilla")
    parser.add_argument(
        "--assistant-length", type=int, help="tokens that it drafts every round; default: as it decides"
    )
    parser.add_argument("--prompts", action="append", help="set or file, repeatable; default: demo:math")
    parser.add_argument("--lengths", default="2,4,7,auto", help="draft lengths with commas between")
    parser.add_argument("--tree", type=int, action="append", help="nodes of a tree, repeatable; default: no trees")
    parser.add_argument("--block", action="store_true", help="every length under block verification too")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--limit", type=int, default=20, help="prompts of each set")
    parser.add_argument("--repeats", type=int, default=1, help="times that every call is timed")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    names = arguments.drafter = arguments.drafter or ["demo:dflash-dpace"]
    target, drafters = load_pair(arguments.target, names, arguments.dtype, trust_remote_code=False)
    written: dict[str, list[Generation]] = {}
    ways = ways_of(arguments, target, drafters, written)
    runs: list[WayRun] = []
    for name in arguments.prompts or ["demo:math"]:
        chosen = fitting(load_prompts(name, arguments.limit), target, arguments.max_new_tokens)
        before = {way: len(found) for way, found in written.items()}
        runs += measure(ways, first_turn_ids(target, chosen), arguments.batch_size, chosen.name, arguments.repeats)
        for run in runs[-len(ways) :]:
            if run.way in written and run.way != OWN:
                warm_up = min(arguments.batch_size, len(chosen.prompts))
                own = written[run.way][before[run.way] + warm_up :]
                run.emitted_length, run.mean_draft_length = emitted_length(own).micro, mean_draft_length(own)
            if arguments.temperature > 0:
                run.same_text = None
        title = f"{arguments.target}, {chosen.name}, batch {arguments.batch_size}"
        Console().print(table_of(runs[-len(ways) :], title))
        if arguments.out:  # after every set: a long run that is stopped keeps what it measured
            facts = {key: value for key, value in vars(arguments).items() if key != "out"}
            weights = asdict(weights_of(arguments.target, names))
            found = {**facts, "weights": weights, "runs": list(map(asdict, runs)), "environment": environment(target)}
            write_text(arguments.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    run_program("decoding.py", main)
