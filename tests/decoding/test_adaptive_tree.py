"""Trees of as many nodes as pay: what is known of a large tree tells what smaller ones bring; nothing is lost."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from paradraft.decoding import Engine, Request, Sampling
from paradraft.decoding.history import PRIOR, TreeHistory
from paradraft.decoding.length import FIRST, Adaptive
from paradraft.decoding.request import Round, Sequence
from paradraft.decoding.tree import best_tree
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import make_drafter, make_drafter_of, make_model

from .test_engine import finish, oracle, transformers_greedy
from .test_length import Given, Timed, adaptive_that_tells, flat_target, sequence

KINDS: list[tuple[str, dict[str, Any]]] = [("dflash", {}), ("pard", {}), ("pard2", {}), ("eagle3", {})]


class TimedTree(Timed):
    def __init__(self, nodes: int, costs: Given) -> None:
        super().__init__(nodes, costs)
        self.history = TreeHistory(nodes)


def test_the_best_nodes_of_a_tree_are_the_best_smaller_tree() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probabilities = (3 * torch.randn(5, 4, 9, generator=generator)).log_softmax(-1)
    large = best_tree(log_probabilities, [4] * 5, 24)
    for nodes in range(1, 24):
        small = best_tree(log_probabilities, [min(4, nodes)] * 5, nodes)
        assert torch.equal(small.tokens, large.tokens[:, :nodes])
        assert torch.equal(small.parents, large.parents[:, :nodes])


def test_one_round_tells_what_smaller_trees_would_have_kept() -> None:
    """Against counting: of a tree of n nodes those of the path are kept that are among the first n."""
    rng, nodes, row = random.Random(0), 6, sequence(1000)
    history, counted = TreeHistory(nodes), np.zeros(nodes)
    assert np.allclose(history.gains([row])[0], (PRIOR ** np.arange(1, 7)).cumsum())
    rounds = 3000
    for _ in range(rounds):
        path = tuple(sorted(rng.sample(range(nodes), rng.choice([0, 1, 1, 2, 3]))))
        history.add(row, nodes, Round((0,) * nodes, len(path), len(path) + 1, 4, path))
        history.update()
        counted += [sum(place < n for place in path) for n in range(1, nodes + 1)]
    assert np.allclose(history.gains([sequence()])[0], counted / rounds, atol=0.2)
    assert history.factor(row) == pytest.approx(1, abs=0.2)


def test_rows_have_an_acceptance_of_their_own_and_keep_no_more_than_they_have_room_for() -> None:
    history, good, bad = TreeHistory(4), sequence(), sequence()
    for _ in range(60):
        history.add(good, 4, Round((1, 2, 3, 4), 2, 3, 2, (0, 2)))
        history.add(bad, 4, Round((1, 2, 3, 4), 0, 1, 2))
        history.update()
    of_good, of_bad, of_new = history.gains([good, bad, sequence()])
    assert of_good[3] > 1.7 > 1.2 > of_new[3] > 0.8 > 0.3 > of_bad[3]
    assert history.rejection(good) < 1 < history.rejection(bad)
    assert history.room(sequence(1)) == 0 and history.room(sequence(2)) == 4
    assert history.gains([sequence(2)])[0].max() <= 1
    before = history.seen.copy()
    history.add(good, 4, Round((1, 2, 3, 4), 3, 2, 2, (0, 2, 3)))  # its text ended within the round
    assert (history.seen == before).all()


@pytest.mark.parametrize(("kept", "wanted"), [((0, 1, 4), 5), ((0,), 1), ((), 0)])
def test_sizes_follow_what_trees_bring(kept: tuple[int, ...], wanted: int) -> None:
    """A node that is never kept is seldom drafted; where none is kept, hardly anything is."""
    rule, row, sizes = TimedTree(8, Given(8, token=0.02, start=0.1)), sequence(10_000), []
    for _ in range(600):
        (nodes,) = rule.choose([row])
        sizes.append(nodes)
        if nodes:
            path = tuple(place for place in kept if place < nodes)
            row.generation.rounds.append(Round((0,) * nodes, len(path), len(path) + 1, 3, path))
        rule.learn([row], [nodes])
    assert wanted - 0.1 < np.mean(sizes[300:]) < wanted + 0.5 and max(sizes) == 8


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_the_first_rounds_of_a_batch_draft_little(rows: int) -> None:
    """Until a place was seen often enough: one short draft of all rows tells as much as a long one of a single row."""
    rule, running = Timed(7, Given(7, token=0.001, start=0.01)), [sequence() for _ in range(rows)]
    first = rule.choose(running)
    assert max(first) == min(7, max(1, FIRST // rows))
    for _ in range(6):
        for row, length in zip(running, first, strict=True):
            row.generation.rounds.append(Round((1,) * length, length, length + 1))
        rule.learn(running, first)
    assert max(rule.choose(running)) == 7


def test_every_row_drafts_its_own_number_of_nodes() -> None:
    target = Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))
    drafter, prompts, sizes = make_drafter_of("dflash", target), [[4, 9, 2], [8], [1, 2, 3]], [5, 0, 2]

    class Given3(Adaptive):
        def choose(self, sequences: list[Sequence]) -> list[int]:
            return sizes[: len(sequences)]

        def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
            pass

    def first_rounds(tree: int, own: bool) -> list[Round]:
        engine = Engine(target, drafter, tree=tree)
        if own:
            engine.lengths = Given3(Given(5), TreeHistory(5))
        sequences = [engine.add(Request(prompt, 20, stops=frozenset())) for prompt in prompts]
        engine.step()
        return [s.generation.rounds[0] for s in sequences]

    own, five, two = first_rounds(5, True), first_rounds(5, False), first_rounds(2, False)
    assert own[0].drafted == five[0].drafted and own[2].drafted == two[2].drafted and not own[1].drafted
    assert (own[1].depth, own[1].path) == (None, ())


@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_adaptive_trees_are_lossless(kind: str, own: dict[str, Any]) -> None:
    rng, used = random.Random(kind), set[int]()
    for _ in range(4):
        seed = rng.randrange(10_000)
        target = Target(make_model("llama", seed=seed))
        drafter = make_drafter_of(kind, target, rng.choice([3, 7]), seed=seed, **own)
        prompts = [[rng.randrange(1, 40) for _ in range(rng.randint(1, 9))] for _ in range(6)]
        new, nodes = rng.randint(5, 40), rng.choice([1, 4, 9])
        plain = [g.tokens for g in Engine(target).generate(prompts, new, ())]
        engine = Engine(target, drafter, max_rows=rng.choice([None, 2]), tree=nodes, draft_length="auto")
        engine.lengths = TimedTree(nodes, Given(nodes, rng.choice([0.0, 0.02]), rng.choice([0.0, 0.05, 0.2])))
        sequences = [engine.add(Request(prompt, new, stops=frozenset())) for prompt in prompts]
        assert [s.generation.tokens for s in finish(engine, sequences)] == plain
        used |= {len(r.drafted) for s in sequences for r in s.generation.rounds}
    assert len(used) > 2 and 0 in used


@pytest.mark.parametrize("rule", ["tree_residual", "tree"])
def test_adaptive_trees_do_not_change_what_is_sampled(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, used = flat_target(), set[int]()

    monkeypatch.setattr(
        "paradraft.decoding.engine.MeasuredCosts", lambda target, drafter, most, tree: Given(tree, 0.0001, 0.3)
    )
    monkeypatch.setattr("paradraft.decoding.engine.Adaptive", adaptive_that_tells(used))
    result = check_distribution(
        target,
        make_drafter(target, block_size=4),
        [[1, 2, 3], [7]],
        20_000,
        Sampling(1.0),
        batch_size=200,
        draft_length="auto",
        tree=6,
        acceptance=rule,
    )
    assert result.passed and result.cells > 50, result
    assert len(used) > 2 and 0 in used, used


def test_an_engine_measures_trees_by_itself(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their costs are kept apart from those of chains, and a drafter that is right drafts."""
    monkeypatch.setenv("PARADRAFT_CACHE", str(tmp_path))
    target, prompt = Target(make_model("llama", seed=3)), [4, 9, 2]
    answer = transformers_greedy(target, prompt, 60)
    drafter = oracle(target, prompt + answer, 1000)
    for tree in (None, 3):
        engine = Engine(target, drafter, draft_length="auto", tree=tree)
        (generation,) = engine.generate([prompt], 60, ())
        assert generation.tokens == answer
    assert len(list((tmp_path / "costs").glob("*.json"))) == 2
