"""What `paradraft bench` found, as a table and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich import box
from rich.table import Table

from ..numbers import number, size
from .bench import BenchResults, BenchRun
from .measure import PLAIN

COLUMNS = (
    "batch",
    "way",
    "tok/s",
    "ms a round",
    "ms a token",
    "emitted",
    "speed-up",
    "round efficiency",
    "draft / verify / other",
)


def bench_cells(runs: Iterable[BenchRun]) -> list[list[str]]:
    """One line a run, in the order of COLUMNS."""
    lines = []
    for run in runs:
        parts = run.seconds.draft, run.seconds.verify, run.seconds.other
        split = "/".join(f"{part / (sum(parts) or 1.0):.0%}" for part in parts)
        way = f"{run.way} ({number(run.mean_draft_length, 1)})" if run.way == "K=auto" else run.way
        times = (
            number(run.tokens_per_second, 1),
            number(run.milliseconds_per_round, 1),
            number(run.milliseconds_per_token, 1),
        )
        gains = number(run.emitted_length), number(run.speedup), number(run.efficiency)
        lines.append([str(run.batch_size), way, *times, *gains, split])
    return lines


def bench_table(results: BenchResults) -> Table:
    table = Table(title=f"{results.target} with {results.drafter}", box=box.SIMPLE)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "way" else "right", overflow="fold")
    for line in bench_cells(results.runs):
        table.add_row(*line)
    return table


def bench_sentences(results: BenchResults) -> list[str]:
    """What the table does not say: the memory's limit, where drafting stops paying, what the text is worth."""
    found = [
        f"The target's weights are {size(results.target_bytes)}, the drafter's own {size(results.drafter_bytes)}. "
        f"Memory is read at {size(results.bandwidth)} a second (measured in this run){limit_clause(results)}."
    ]
    for way in dict.fromkeys(run.way for run in results.runs if run.way != PLAIN):
        found.append(paying_sentence(way, [run for run in results.runs if run.way == way]))
    if results.synthetic_acceptance is not None:
        found.append(
            f"Each drafted token was accepted with probability {results.synthetic_acceptance:g}, whatever the target "
            "says: these are times, and the text is not the target's."
        )
    return found


def limit_clause(results: BenchResults) -> str:
    """What the bandwidth says of the target's steps, to go on a sentence with."""
    if results.limit_milliseconds is None:
        return "; a token reads some of the target's experts only, so their bytes are no limit"
    found = f", so no step of the target takes less than {results.limit_milliseconds:.1f} ms"
    plain = next((run for run in results.runs if run.way == PLAIN and run.batch_size == 1), None)
    if plain is not None and results.limit_milliseconds:
        found += f"; a plain token takes {plain.milliseconds_per_round / results.limit_milliseconds:.2f} times that"
    return found


def paying_sentence(way: str, runs: Sequence[BenchRun]) -> str:
    """At which batch sizes a way is faster than plain decoding, on straight lines between the measured ones."""
    runs = sorted(runs, key=lambda run: run.batch_size)
    turns = []
    for before, after in pairwise(runs):
        if (before.speedup >= 1) != (after.speedup >= 1):
            share = (before.speedup - 1) / (before.speedup - after.speedup)
            at = math.ceil(before.batch_size + share * (after.batch_size - before.batch_size))
            turns.append(f"{'pays from' if after.speedup >= 1 else 'stops paying at'} a batch size of about {at}")
    if not turns:
        first, last = runs[0].batch_size, runs[-1].batch_size
        sizes = f"a batch size of {first}" if first == last else f"batch sizes from {first} to {last}"
        return f"{way} {'pays' if runs[0].speedup >= 1 else 'does not pay'} at {sizes}."
    return f"{way} {' and '.join(turns)}."
