"""Random greedy cases: drafted text against plain decoding, token for token, in float32.

python benchmarks/lossless_cases.py --cases 10000 --out benchmarks/results/lossless-cases.json

A case is one text that is decoded with a random tiny target and drafter: any family and kind, a reduced draft
vocabulary or not, lean or not; chains and trees with every acceptance rule, of one length or of lengths that change
from round to round; among other requests, greedy and sampled ones, that come and go. A text that differs where the
target's two best logits are equal up to rounding is a tie and counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tiny models are those of the tests

from paradraft.decoding import Engine, Request, Sampling
from paradraft.decoding.acceptance import ACCEPTANCE, TREE_ACCEPTANCE
from paradraft.decoding.confidence import chains_of, likeliest_chain
from paradraft.decoding.draft import Draft
from paradraft.decoding.request import Sequence as Running
from paradraft.drafters import BranchingDrafter, DFlash2, Drafter
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import run_program
from paradraft.evaluation.lossless import examine_divergence
from paradraft.files import write_text
from paradraft.models import Target
from tests.conftest import FAMILIES, KINDS, VARIANTS, make_drafter_of, make_model

TEXTS = 12  # of a target, each decoded in several ways
WAYS = 6


@dataclass
class Outcome:
    """cases by way of drafting; what differs from plain decoding, described; rounds by accepted tokens."""

    cases: Counter[str] = field(default_factory=Counter)
    accepted: Counter[int] = field(default_factory=Counter)
    ties: int = 0
    mismatches: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.cases += other.cases
        self.accepted += other.accepted
        self.ties += other.ties
        self.mismatches += other.mismatches


class RandomLengths:
    """Another length in every round and row, 0 included: whatever chooses lengths, it chooses one of these.

    Of the trees any numbers of nodes are verified, or their likeliest chains.
    """

    def __init__(self, most: int, tree: int | None, rng: random.Random) -> None:
        self.most, self.nodes, self.rng = tree or most, tree, rng

    def prepare(self, rows: int, sampled: bool) -> None:
        pass

    def choose(self, sequences: Sequence[Running]) -> list[int]:
        return [self.rng.randint(0, max(0, min(self.most, sequence.room - 1))) for sequence in sequences]

    def paying(self, draft: Draft) -> Draft:
        assert draft.parents is not None
        if self.rng.random() < 0.5:
            return draft.first([self.rng.randint(0, draft.tokens.shape[1]) for _ in draft.tokens])
        drafted = zip(draft.parents.tolist(), draft.lengths.tolist(), strict=True)
        return chains_of(draft, [likeliest_chain(parents[:length]) for parents, length in drafted])

    def learn(self, sequences: Sequence[Running], lengths: Sequence[int], seconds: float) -> None:
        pass


@dataclass(frozen=True)
class Way:
    """How drafts are made and kept."""

    kind: str
    mode: str
    length: int
    changing: bool
    tree: int | None
    rule: str

    @property
    def name(self) -> str:
        drafts = f"{'changing ' * self.changing}{'tree' if self.tree else 'chain'}"
        return f"{self.kind}, {drafts}, {self.rule}"


def random_way(rng: random.Random, drafter: Drafter) -> Way:
    tree = rng.choice([None, 1, 5, 13, 32]) if drafter.parallel or isinstance(drafter, BranchingDrafter) else None
    rule = rng.choice(list(TREE_ACCEPTANCE if tree else ACCEPTANCE))
    changing = rng.random() < 0.4
    return Way(drafter.kind, rng.choice(drafter.modes), rng.randint(1, drafter.max_draft), changing, tree, rule)


def help_to_draft(
    drafter: Drafter,
    engine: Engine,
    texts: dict[int | None, list[int]],
    rng: random.Random,
    by: Sequence[float] = (2, 10),
) -> None:
    """Let it draft most of the tokens that are to come: of its own accord a random drafter is seldom right for long.

    by: what is added to their logits, one of these each time.
    """

    def coming(slot: int) -> list[int]:
        sequence = next(sequence for sequence in engine.scheduler.running if sequence.slot == slot)
        return texts[sequence.request.seed][len(sequence.generation.tokens) :]

    def help_at(logits: Tensor, token: int) -> None:
        """Draft logits [..., V_d], in place."""
        own = token if drafter.vocabulary is None else int(drafter.vocabulary.to_draft[token])
        if own >= 0 and rng.random() < 0.85:
            logits[..., own] += rng.choice(by)

    def propose(state: Any, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Any) -> Any:
        step = 0

        def helped(logits: Tensor) -> Tensor:
            nonlocal step
            logits = logits.clone()
            for row, slot in enumerate(slots):
                for place, token in enumerate(coming(slot)[step : step + logits.shape[1]]):
                    help_at(logits[row, place], token)
            step += logits.shape[1]
            return logits

        kind = type(drafter)
        if not isinstance(drafter, DFlash2):
            return kind.propose(drafter, state, slots, anchors, steps, lambda logits: sampler(helped(logits)))
        drafter.head = lambda hidden: helped(kind.head(drafter, hidden))  # its sampler sees a few candidates only
        try:
            return kind.propose(drafter, state, slots, anchors, steps, sampler)
        finally:
            del drafter.head  # the class's own again

    def propose_tree(state: Any, slots: Sequence[int], anchors: Tensor, steps: int, grow: Any) -> None:
        step = 0

        def helped(logits: Tensor) -> Any:
            nonlocal step
            logits = logits.clone()
            for row, slot in enumerate(slots):
                for token in coming(slot)[step : step + 1]:
                    help_at(logits[row], token)
            step += 1
            return grow(logits)

        type(drafter).propose_tree(drafter, state, slots, anchors, steps, helped)

    drafter.propose, drafter.propose_tree = propose, propose_tree


def engine_of(way: Way, target: Target, drafter: Drafter, rng: random.Random) -> Engine:
    drafter.set_mode(way.mode)
    most = rng.choice([None, 1, 3, 6])
    engine = Engine(target, drafter, None, way.length, rng.randrange(99), most, way.rule, way.tree)
    if way.changing:
        engine.lengths = RandomLengths(way.length, way.tree, rng)
    return engine


def random_pair(rng: random.Random, seed: int) -> tuple[Target, list[Drafter]]:
    """Of a small vocabulary long drafts are often right; large weights keep texts from looping."""
    sizes = {"vocab_size": rng.choice([5, 8, 12, 40]), "num_hidden_layers": rng.choice([2, 3])}
    target = Target(make_model(rng.choice(FAMILIES), seed, initializer_range=rng.choice([0.3, 0.6, 1.0]), **sizes))
    size = target.vocabulary_size
    ways = rng.sample([*((kind, {}) for kind in KINDS), *VARIANTS], 2)
    drafters = [
        make_drafter_of(kind, target, rng.choice([1, 3, 7]), rng.choice([1, 2]), seed, **own) for kind, own in ways
    ]
    for drafter in drafters:
        if rng.random() < 0.3:
            ids = sorted(rng.sample(range(size), size // 2))
            drafter.restrict(DraftVocabulary(torch.tensor(ids), size))
    return target, drafters


def random_requests(rng: random.Random, size: int, texts: int) -> list[Request]:
    """Greedy ones are compared; sampled ones are only company."""
    found = []
    for number in range(texts + 3):
        prompt = [rng.randrange(1, size) for _ in range(rng.randint(1, 9))]
        stops = frozenset(rng.sample(range(size), rng.choice([0, 0, 1])))
        sampling = Sampling(1.0) if number >= texts and rng.random() < 0.5 else Sampling()
        found.append(Request(prompt, rng.randint(1, 28), sampling, stops, seed=number))
    rng.shuffle(found)
    return found


def decoded(engine: Engine, requests: Sequence[Request], rng: random.Random) -> list[Running]:
    """Some at once, the others one by one while these run."""
    first = rng.randint(1, len(requests))
    sequences = [engine.add(request) for request in requests[:first]]
    for request in requests[first:]:
        engine.step()
        sequences.append(engine.add(request))
    while not engine.scheduler.idle:
        engine.step()
    return sequences


def run_cases(seed: int, texts: int = TEXTS, ways: int = WAYS) -> Outcome:
    """All cases of one target."""
    rng, outcome = random.Random(seed), Outcome()
    torch.set_num_threads(1)
    target, drafters = random_pair(rng, seed)
    requests = random_requests(rng, target.vocabulary_size, texts)
    plain = decoded(Engine(target), requests, random.Random(0))
    if rng.random() < 0.5:
        target.prepare_decoding()
        for drafter in drafters:
            drafter.prepare_decoding()
    written = {sequence.request.seed: sequence.generation.tokens for sequence in plain}
    for _ in range(ways):
        drafter = rng.choice(drafters)
        way = random_way(rng, drafter)
        engine = engine_of(way, target, drafter, rng)
        help_to_draft(drafter, engine, written, rng)
        for a, b in zip(plain, decoded(engine, requests, rng), strict=True):
            if not a.request.sampling.greedy:
                continue
            outcome.cases[way.name] += 1
            outcome.accepted.update(r.accepted for r in b.generation.rounds)
            if a.generation.tokens == b.generation.tokens and a.generation.stopped == b.generation.stopped:
                continue
            tokens = a.generation.tokens, b.generation.tokens
            if examine_divergence(target, 0, list(a.request.prompt), *tokens).tie:
                outcome.ties += 1
            else:
                outcome.mismatches.append(f"seed {seed}, {way}: {tokens[0]} became {tokens[1]}")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first target")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    whole, started, targets = Outcome(), time.perf_counter(), 0
    seeds = range(arguments.seed, arguments.seed + -(-arguments.cases // (TEXTS * WAYS)))
    with ProcessPoolExecutor(arguments.processes) as pool:
        for future in as_completed(pool.submit(run_cases, seed) for seed in seeds):
            if future.exception() is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            whole.add(future.result())
            targets += 1
            print(
                f"\r{targets} of {len(seeds)} targets, {whole.cases.total()} cases, "
                f"{len(whole.mismatches)} mismatches, {whole.ties} ties, {time.perf_counter() - started:.0f} s",
                end="",
                flush=True,
            )
    print()
    for way, count in sorted(whole.cases.items()):
        print(f"{count:6d}  {way}")
    print("rounds by accepted tokens:", ", ".join(f"{n}: {count}" for n, count in sorted(whole.accepted.items())))
    print("\n".join(whole.mismatches))
    if arguments.out is not None:
        seconds = round(time.perf_counter() - started)
        # Field by field: dataclasses.asdict makes a Counter of the pairs of a Counter.
        found = {"cases": whole.cases, "accepted": whole.accepted, "ties": whole.ties, "mismatches": whole.mismatches}
        record = {"processes": arguments.processes, "seconds": seconds, "torch": torch.__version__, **found}
        write_text(arguments.out, json.dumps(record, indent=2) + "\n")
    sys.exit(1 if whole.mismatches else 0)


if __name__ == "__main__":
    run_program("lossless_cases.py", main)
