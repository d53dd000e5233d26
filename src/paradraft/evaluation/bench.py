"""Latency and throughput over batch sizes and draft lengths, beside what the machine's memory allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..decoding import DraftLength, Engine, Generation, Sampling, Seconds
from ..decoding.acceptance import leading
from ..decoding.draft import Accepted, Draft, Noise
from ..decoding.draft import drafted as is_drafted
from ..decoding.length import AUTO
from ..decoding.timing import seconds_of
from ..drafters import Drafter
from ..errors import UserError
from ..files import read_json, reading, write_text
from ..models import Target, TargetOutput
from .measure import PLAIN, environment
from .results import TimeSplit
from .statistics import mean_draft_length, ratio, rounds_and_tokens

BENCH_FILE = "bench.json"
DRAFT_LENGTHS: tuple[DraftLength, ...] = (AUTO, 2, 4, 7)  # timed unless others are asked for
READ_BYTES = {"cpu": 2**28, "cuda": 2**31}  # of one read for the bandwidth: more than caches hold


class SyntheticEngine(Engine):
    """Keeps each drafted token with a given probability, whatever the target thinks of it.

    For timing only, with models whose text means nothing: nothing about it is lossless. It drafts chains.
    """

    def __init__(
        self,
        probability: float,
        target: Target,
        drafter: Drafter | None,
        sampling: Sampling,
        draft_length: DraftLength | None,
        seed: int,
    ) -> None:
        super().__init__(target, drafter, sampling, draft_length, seed, tree=0)
        self.probability, self.chance = probability, torch.Generator().manual_seed(self.seed)

    def judge(self, draft: Draft, output: TargetOutput, samplings: Sequence[Sampling], noise: Noise | None) -> Accepted:
        found = super().judge(draft, output, samplings, noise)  # costs what it costs
        lucky = torch.rand(draft.tokens.shape, generator=self.chance).to(draft.tokens.device) < self.probability
        return Accepted(leading(lucky & is_drafted(draft)), found.next)


@dataclass(frozen=True)
class BenchRun:
    """One way of decoding at one batch size.

    way: "plain", "K=4", "K=auto". milliseconds_per_round: of a round of all rows; per_token: of a token in one row, as
    its reader waits for it. efficiency: a plain step's time over a round's, 1 if a round cost no more; with one row it
    is speed-up / emitted length.
    """

    batch_size: int
    way: str
    tokens: int
    rounds: int
    tokens_per_second: float
    milliseconds_per_round: float
    milliseconds_per_token: float
    emitted_length: float
    mean_draft_length: float
    speedup: float
    efficiency: float
    seconds: TimeSplit


@dataclass(frozen=True)
class BenchResults:
    """All that `paradraft bench` found. synthetic_acceptance: None if tokens were really accepted or rejected.

    bandwidth: bytes a second of reading memory, measured in the same run; target_bytes, drafter_bytes: weights that one
    forward reads; limit_milliseconds: the target's, by this bandwidth, None for a mixture of experts, of whose weights
    a token reads some only.
    """

    target: str
    drafter: str
    mode: str
    synthetic_acceptance: float | None
    temperature: float
    max_new_tokens: int
    bandwidth: float
    target_bytes: int
    drafter_bytes: int
    limit_milliseconds: float | None
    runs: list[BenchRun]
    environment: dict[str, Any]


# --- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchSettings:
    """`repeats` batches at each size, the prompts repeated as far as they must be.

    draft_lengths: None: those of DRAFT_LENGTHS that the drafter was trained for.
    """

    batch_sizes: tuple[int, ...] = (1, 4, 16)
    draft_lengths: tuple[DraftLength, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 128
    repeats: int = 2
    synthetic_acceptance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.batch_sizes):
            raise UserError(f"batch sizes must be at least 1, not {min(self.batch_sizes)}")
        if self.synthetic_acceptance is not None and not 0 <= self.synthetic_acceptance <= 1:
            raise UserError(f"--synthetic-acceptance must lie in 0 to 1, not {self.synthetic_acceptance:g}")


def lengths_of(drafter: Drafter, settings: BenchSettings) -> tuple[DraftLength, ...]:
    if settings.draft_lengths is not None:
        return settings.draft_lengths
    return tuple(length for length in DRAFT_LENGTHS if length == AUTO or length <= drafter.max_draft)


def engines_of(target: Target, drafter: Drafter, settings: BenchSettings) -> dict[str, Engine]:
    """One engine for each way of decoding, plain first."""

    def engine(drafting: Drafter | None, length: DraftLength | None) -> Engine:
        if settings.synthetic_acceptance is None:
            return Engine(target, drafting, settings.sampling, length, settings.seed)
        share = settings.synthetic_acceptance
        return SyntheticEngine(share, target, drafting, settings.sampling, length, settings.seed)

    ways = {PLAIN: engine(None, None)}
    return ways | {f"K={length}": engine(drafter, length) for length in lengths_of(drafter, settings)}


def bench(
    target: Target,
    drafter: Drafter,
    prompts: Sequence[Sequence[int]],
    settings: BenchSettings,
    advance: Callable[[int], None] = lambda batches: None,
) -> list[BenchRun]:
    """Time every way on every batch, one after the other, so that a slower or faster machine affects all alike.

    With synthetic acceptance no text ends before its `max_new_tokens`.
    """
    ways = engines_of(target, drafter, settings)
    stops = None if settings.synthetic_acceptance is None else ()
    runs = []
    # Slots of one size are kept with their graphs.
    untimed = settings.max_new_tokens if target.graphs is not None else min(8, settings.max_new_tokens)
    for batch_size in settings.batch_sizes:
        written: dict[str, list[Generation]] = {way: [] for way in ways}
        for engine in ways.values():
            first = [prompts[i % len(prompts)] for i in range(batch_size)]
            engine.generate(first, untimed, stops)  # allocates, measures costs, records graphs
            engine.seconds = Seconds()
        for repeat in range(settings.repeats):
            batch = [prompts[(repeat * batch_size + i) % len(prompts)] for i in range(batch_size)]
            for way, engine in ways.items():
                seeds = [settings.seed + repeat * batch_size + i for i in range(batch_size)]
                written[way] += engine.generate(batch, settings.max_new_tokens, stops, seeds=seeds)
                advance(1)
        plain = None
        for way, engine in ways.items():
            run = bench_run(batch_size, way, written[way], engine.seconds, plain)
            plain = plain or run
            runs.append(run)
    return runs


def bench_run(
    batch_size: int, way: str, texts: Sequence[Generation], seconds: Seconds, plain: BenchRun | None
) -> BenchRun:
    """The figures of one way; `plain`: those of plain decoding, None if this is it."""
    rounds, tokens = rounds_and_tokens(texts)
    emitted = ratio(tokens, rounds) or 0.0
    speed = float(tokens.sum()) / seconds.decode if seconds.decode else 0.0
    steps = sum(
        max((len(g.rounds) for g in texts[i : i + batch_size]), default=0) for i in range(0, len(texts), batch_size)
    )
    a_round = 1000 * seconds.decode / max(1, steps)
    return BenchRun(
        batch_size,
        way,
        int(tokens.sum()),
        int(rounds.sum()),
        speed,
        a_round,
        a_round / emitted if emitted else 0.0,
        emitted,
        mean_draft_length(texts) or 0.0,
        speed / plain.tokens_per_second if plain and plain.tokens_per_second else 1.0,
        plain.milliseconds_per_round / a_round if plain and a_round else 1.0,
        TimeSplit(seconds.draft, seconds.verify, seconds.other),
    )


def bench_results(
    target: Target, drafter: Drafter, names: tuple[str, str], settings: BenchSettings, runs: list[BenchRun]
) -> BenchResults:
    """With the machine's bandwidth, measured now; `names` of target and drafter as they were asked for."""
    speed = bandwidth(target.device)
    read = weight_bytes(target.model, target.embedding, target.output_embedding)
    shared = {id(p) for p in target.model.parameters()}
    own = sum(p.numel() * p.element_size() for p in drafter.parameters() if id(p) not in shared)
    return BenchResults(
        *names,
        drafter.mode,
        settings.synthetic_acceptance,
        settings.sampling.temperature,
        settings.max_new_tokens,
        speed,
        read,
        own,
        None if has_experts(target.model) else 1000 * read / speed,
        runs,
        environment(target),
    )


def weight_bytes(model: nn.Module, embedding: nn.Embedding, head: nn.Module) -> int:
    """What a forward reads of the weights: all but an embedding that is not the head as well."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    weight = embedding.weight
    return total if head.weight is weight else total - weight.numel() * weight.element_size()


def has_experts(model: nn.Module) -> bool:
    """Whether it is a mixture of experts, by the names of its weights."""
    return any("experts" in name.split(".") for name, _ in model.named_parameters())


def bandwidth(device: torch.device) -> float:
    """Bytes a second of summing up a tensor that no cache holds; the best of a few times."""
    memory = torch.ones(READ_BYTES["cuda" if device.type == "cuda" else "cpu"] // 4, device=device)
    return memory.numel() * 4 / min(seconds_of(memory.sum, device) for _ in range(6))


# --- on disk ------------------------------------------------------------------------------------------------------


def write_bench(path: Path, results: BenchResults) -> None:
    write_text(path, bench_json(results) + "\n")


def bench_json(results: BenchResults) -> str:
    return json.dumps({"bench": asdict(results)}, indent=2)


def read_bench(path: Path) -> BenchResults:
    """UserError if the file is not what `write_bench` writes."""
    with reading(path, "what `paradraft bench --out` writes", "run it again"):
        found = read_json(path)["bench"]
        values = {name: found[name] for name in (each.name for each in fields(BenchResults))}
        values["runs"] = [BenchRun(**{**run, "seconds": TimeSplit(**run["seconds"])}) for run in found["runs"]]
        return BenchResults(**values)
