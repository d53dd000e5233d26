"""The decoding part of `gpu.py`: is it right on this device, and how near does it come to what the memory allows?

Right: texts of every kind of drafter against plain decoding, and the lean forward against Transformers' own. Times: of
Qwen3-4B's sizes with the drafters published for it, each beside its aim. All weights are random.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import torch
from lossless_cases import help_to_draft  # the benchmarks beside this file
from torch import Tensor

from paradraft.decoding import DraftLength, Engine, Generation
from paradraft.decoding.length import AUTO
from paradraft.decoding.timing import seconds_of
from paradraft.drafters import DRAFTERS, BranchingDrafter, Drafter
from paradraft.evaluation.bench import PLAIN, BenchResults, BenchSettings, bandwidth, bench, bench_results, weight_bytes
from paradraft.evaluation.lossless import examine_divergence
from paradraft.evaluation.shapes import PREFIX, random_pair, synthetic_prompts
from paradraft.evaluation.statistics import ratio, rounds_and_tokens
from paradraft.models import Target
from paradraft.models.graphs import Graphs
from tests.conftest import drafter_values

TOY: Final = "random:toy"
SIZES: Final = "random:qwen3-4b"
PUBLISHED: Final = ["random:dflash", "random:pard2"]
WAYS: Final[dict[str, tuple[DraftLength | None, int | None]]] = {  # draft length and nodes of a tree
    "chain": (None, None),
    "auto": (AUTO, None),
    "tree": (None, 13),
}
ROUND = 16  # tokens that the target verifies in a round, its own newest one among them
EMITTED = 6.0  # tokens a round, by the choice of the synthetic acceptance
MOST_PLAIN = 1.25  # times the weights' bytes / bandwidth that a plain token may take
MOST_ROUND = 1.35  # times a plain token and the drafter's bytes / bandwidth that a round may take
LEAST_EFFICIENCY = 0.8  # speed-up / emitted length
LEAST_AUTO = 0.97  # speed-up of `auto` at any batch size


# --- is it right? -------------------------------------------------------------------------------------------------


def every_kind(target: Target) -> dict[str, Drafter]:
    """A small random drafter of every kind."""
    made = {}
    for kind, drafter in DRAFTERS.items():
        section = drafter.section.model_validate(drafter_values(kind, layers=2, block_size=8, draft_length=7))
        made[kind] = drafter.create(section, target).eval()
    return made


def same_texts(target: Target, drafters: dict[str, Drafter], new_tokens: int) -> dict[str, Any]:
    """Greedy texts of every drafter in every way against plain ones; four rows, drafts that are often right.

    `equal`: the share of equal texts. `gaps`: the target's two best logits apart, where a text first differs; a
    difference passes as a tie, where that is within rounding.
    """
    prompts = synthetic_prompts(target.vocabulary_size, 9, 4)
    plain = [text.tokens for text in Engine(target).generate(prompts, new_tokens, ())]
    found = []
    for kind, drafter in drafters.items():
        for way, (length, nodes) in WAYS.items():
            if nodes is not None and not (drafter.parallel or isinstance(drafter, BranchingDrafter)):
                continue
            texts = drafted(Engine(target, drafter, draft_length=length, tree=nodes), drafter, prompts, plain)
            apart = [
                examine_divergence(target, number, prompts[number], ours, text.tokens)
                for number, (ours, text) in enumerate(zip(plain, texts, strict=True))
                if ours != text.tokens
            ]
            found.append(
                {
                    "drafter": kind,
                    "way": way,
                    "emitted_length": ratio(*reversed(rounds_and_tokens(texts))),
                    "equal": 1 - len(apart) / len(prompts),
                    "gaps": [each.gap for each in apart],
                    "passed": all(each.tie for each in apart),
                }
            )
    return {"ways": found, "passed": all(way["passed"] for way in found)}


def drafted(
    engine: Engine, drafter: Drafter, prompts: Sequence[Sequence[int]], plain: Sequence[list[int]]
) -> list[Generation]:
    """Texts of an engine whose drafter is told most of what is to come."""
    help_to_draft(drafter, engine, dict(enumerate(plain)), random.Random(0), by=(50,))
    try:
        return engine.generate(prompts, len(plain[0]), (), seeds=range(len(prompts)))
    finally:
        del drafter.propose, drafter.propose_tree  # the class's own again


def lean_equals_eager(target: Target) -> dict[str, Any]:
    """Logits of the lean forward against Transformers' own: a prefill, single tokens, a block and a tree, float32."""
    assert target.lean is not None
    caches = [target.new_slots(4, 64) for _ in range(2)]
    nodes = torch.tensor([[-1, 0, 0, 1, 2]] * 4, device=target.device)
    steps: tuple[tuple[int, list[int], Tensor | None], ...] = (
        (9, [9, 4, 6, 7], None),
        (1, [1, 1, 1, 1], None),
        (ROUND, [3, 1, 16, 2], None),
        (5, [2, 2, 1, 1], nodes),
        (1, [1, 1, 1, 1], None),
    )
    differences, same = [], True
    generator = torch.Generator().manual_seed(0)
    for tokens, kept, parents in steps:
        ids = torch.randint(1, target.vocabulary_size, (4, tokens), generator=generator).to(target.device)
        run = partial(target.forward, ids, parents=parents)
        with target.decoding():
            lean = run(caches[0]).logits
            with patch.object(target, "lean", None):
                eager = run(caches[1]).logits
        differences.append(float((lean - eager).abs().max() / eager.abs().max()))
        same &= torch.equal(lean.argmax(-1), eager.argmax(-1))
        for cache in caches:
            cache.commit(torch.tensor(kept))
    return {
        "largest_relative_difference": max(differences),
        "same_argmax": same,
        "passed": same and max(differences) < 1e-4,
    }


def graphs_equal_eager(target: Target) -> dict[str, Any]:
    """Logits from graphs against the same forward without; the first run of a shape records nothing, the third replays.

    None where there are no graphs.
    """
    if target.graphs is None:
        return {"largest_relative_difference": None, "same_argmax": None, "passed": True}
    caches = [target.new_slots(4, 600) for _ in range(2)]
    nodes = torch.tensor([[-1, 0, 0, 1, 2]] * 4, device=target.device)
    generator = torch.Generator().manual_seed(0)
    differences, same = [], True
    for tokens, parents in ((1, None), (ROUND, None), (5, nodes), (33, None)):
        for slots in ([0, 1, 2, 3], [0, 2], [0]):  # with graphs: all, a hole between, the first alone
            for _ in range(4):
                ids = torch.randint(1, target.vocabulary_size, (len(slots), tokens), generator=generator)
                seen = None if parents is None else parents[: len(slots)]
                found = []
                for cache, used in zip(caches, (None, target.graphs), strict=True):
                    with target.decoding(), patch.object(target, "graphs", used):
                        found.append(target.forward(ids.to(target.device), cache, (), slots, seen).logits)
                        cache.commit(torch.tensor([1 + slot % 2 for slot in slots]).clamp(max=tokens))
                eager, graph = found
                differences.append(float((graph - eager).abs().max() / eager.abs().max()))
                same &= torch.equal(graph.argmax(-1), eager.argmax(-1))
    return {
        "largest_relative_difference": max(differences),
        "same_argmax": same,
        "passed": same and max(differences) < 1e-4,
    }


# --- how fast is it? ----------------------------------------------------------------------------------------------


def acceptance_for(emitted: float, length: int) -> float:
    """The probability of accepting a token with which a round of `length` drafted ones emits so many on average."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**k for k in range(length + 1)) < emitted else (low, middle)
    return low


def times(target: Target, name: str, drafter: Drafter, small: bool) -> dict[str, Any]:
    """Plain, drafted and adaptive decoding over batch sizes, behind contexts of 1,024 tokens, beside the aims."""
    length = min(ROUND - 1, drafter.max_draft)
    settings = BenchSettings(
        batch_sizes=(1, 4) if small else (1, 4, 16, 64),
        draft_lengths=(length, AUTO),
        max_new_tokens=24 if small else 256,
        synthetic_acceptance=acceptance_for(EMITTED, length),
    )
    runs = bench(target, drafter, synthetic_prompts(target.vocabulary_size, 32 if small else 1024), settings)
    results = bench_results(target, drafter, (target.name, name), settings, runs)
    return {"checks": checks(results, length), "bench": asdict(results)}


def forward_milliseconds(target: Target, rows: int, tokens: int, context: int, graphs: Graphs | None) -> float:
    """Of the target's forward with its head; the best of some after three, of which the second may record."""
    cache = target.new_slots(rows, context + tokens)
    ids = torch.ones(rows, tokens, dtype=torch.long, device=target.device)

    def forward() -> None:
        cache.lengths[:] = context
        target.forward(ids, cache)

    with target.decoding(), patch.object(target, "graphs", graphs):
        for _ in range(3):
            forward()
        return 1000 * min(seconds_of(forward, target.device) for _ in range(20))


def forward_times(target: Target, context: int) -> list[dict[str, Any]]:
    """Eager and by graph, beside what reading the weights takes; `graph` is None where there are none."""
    read = weight_bytes(target.model, target.embedding, target.output_embedding)
    limit = 1000 * read / bandwidth(target.device)
    found = []
    for rows in (1, 4, 16):
        for tokens in (1, ROUND):
            eager = forward_milliseconds(target, rows, tokens, context, None)
            graph = (
                None if target.graphs is None else forward_milliseconds(target, rows, tokens, context, target.graphs)
            )
            over = None if graph is None else graph / limit
            found.append(
                {"rows": rows, "tokens": tokens, "eager": eager, "graph": graph, "limit": limit, "graph_to_limit": over}
            )
    return found


def checks(results: BenchResults, length: int) -> list[dict[str, Any]]:
    """What is to be reached, one row first, and whether it is."""
    runs = {(run.batch_size, run.way): run for run in results.runs}
    plain, whole = runs[1, PLAIN], runs[1, f"K={length}"]
    drafting = 1000 * results.drafter_bytes / results.bandwidth
    assert results.limit_milliseconds is not None
    found = [
        at_most(MOST_PLAIN, "plain token / its bytes", plain.milliseconds_per_round / results.limit_milliseconds),
        at_most(
            MOST_ROUND,
            f"round of {length + 1} / (plain token + drafter's bytes)",
            whole.milliseconds_per_round / (plain.milliseconds_per_round + drafting),
        ),
        at_least(
            LEAST_EFFICIENCY, f"round efficiency at an emitted length of {whole.emitted_length:.1f}", whole.efficiency
        ),
    ]
    for (batch_size, way), run in runs.items():
        if way == f"K={AUTO}":
            found.append(at_least(LEAST_AUTO, f"speed-up of auto, batch {batch_size}", run.speedup))
    return found


def at_most(aim: float, what: str, value: float) -> dict[str, Any]:
    return {"what": what, "value": value, "aim": f"at most {aim:g}", "met": value <= aim}


def at_least(aim: float, what: str, value: float) -> dict[str, Any]:
    return {"what": what, "value": value, "aim": f"at least {aim:g}", "met": value >= aim}


# --- all of it ----------------------------------------------------------------------------------------------------


def lean_part(small: bool) -> dict[str, Any]:
    return lean_equals_eager(random_pair(TOY, [], "float32")[0])


def graphs_part(small: bool) -> dict[str, Any]:
    """Milliseconds of small forwards behind 1,024 tokens, eager and by graph, in bfloat16; do both say the same?"""
    found = graphs_equal_eager(random_pair(TOY, [], "float32")[0])
    target, _ = random_pair(TOY if small else SIZES, [], "bfloat16")
    return {**found, "milliseconds": forward_times(target, 64 if small else 1024)}


def texts_part(small: bool) -> dict[str, Any]:
    """Every kind of drafter, a toy in float32."""
    toy, _ = random_pair(TOY, [], "float32")
    kinds = every_kind(toy)
    for drafter in kinds.values():
        drafter.prepare_decoding()
    return same_texts(toy, kinds, 48)


def bfloat16_texts_part(small: bool) -> dict[str, Any]:
    """The published drafters at real sizes in bfloat16."""
    return same_texts(*random_pair(TOY if small else SIZES, PUBLISHED, "bfloat16"), 32 if small else 128)


def times_part(small: bool) -> dict[str, Any]:
    target, drafters = random_pair(TOY if small else SIZES, PUBLISHED, "bfloat16")
    return {name.removeprefix(PREFIX): times(target, name, drafter, small) for name, drafter in drafters.items()}


PARTS: Final = {
    "lean_equals_eager": lean_part,
    "graphs": graphs_part,
    "same_texts": texts_part,
    "same_texts_bfloat16": bfloat16_texts_part,
    "times": times_part,
}
