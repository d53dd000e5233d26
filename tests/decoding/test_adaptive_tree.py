"""Trees of as many nodes as pay: what is known of a large tree tells what smaller ones bring; nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from paradraft.decoding import Engine, Request, Sampling
from paradraft.decoding.confidence import Confident
from paradraft.decoding.draft import Draft
from paradraft.decoding.history import PRIOR, Nodes, TreeHistory
from paradraft.decoding.length import FIRST, FixedTree
from paradraft.decoding.request import Round, Sequence
from paradraft.decoding.tree import best_tree, tree_size
from paradraft.drafters import Drafter
from paradraft.evaluation.lossless import check_distribution
from paradraft.models import Target
from tests.conftest import make_drafter, make_drafter_of, make_model

from .test_confidence import TimedTree
from .test_engine import finish, oracle, transformers_greedy
from .test_length import Given, Timed, flat_target, sequence

KINDS: list[tuple[str, dict[str, Any]]] = [("dflash", {}), ("pard", {}), ("pard2", {}), ("eagle3", {})]


def test_the_best_nodes_of_a_tree_are_the_best_smaller_tree() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probabilities = (3 * torch.randn(5, 4, 9, generator=generator)).log_softmax(-1)
    large = best_tree(log_probabilities, [4] * 5, 24)
    for nodes in range(1, 24):
        small = best_tree(log_probabilities, [min(4, nodes)] * 5, nodes)
        assert torch.equal(small.tokens, large.tokens[:, :nodes])
        assert torch.equal(small.parents, large.parents[:, :nodes])


@pytest.mark.parametrize(("rows", "vocabulary", "nodes"), [(1, 9, 24), (3, 2, 12), (8, 50, 7)])
def test_a_heap_for_each_row_finds_the_trees_that_all_rows_find_together(
    rows: int, vocabulary: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in rows that have no or few paths, where what stands behind them is padding."""
    generator = torch.Generator().manual_seed(rows)
    log_probabilities = (2 * torch.randn(rows, 4, vocabulary, generator=generator)).log_softmax(-1)
    depths = [0, 2, 1, 4, 4, 3, 4, 1][-rows:]
    popped = best_tree(log_probabilities, depths, nodes)
    monkeypatch.setattr("paradraft.decoding.tree.FEW", 0)
    together = best_tree(log_probabilities, depths, nodes)
    for row, depth in enumerate(depths):
        size = tree_size(nodes, depth, vocabulary)
        for one, other in ((popped.tokens, together.tokens), (popped.parents, together.parents)):
            assert torch.equal(one[row, :size], other[row, :size])
        assert torch.allclose(popped.scores[row, :size], together.scores[row, :size])
        assert popped.scores[row, size:].isneginf().all() and together.scores[row, size:].isneginf().all()


def test_one_round_tells_what_smaller_trees_may_have_kept() -> None:
    """Nodes are kept in the shares of the random paths, whatever the drafter says of them; smaller trees follow."""
    rng, nodes, row, said = random.Random(0), 6, sequence(1000), np.array([0.95, 0.8, 0.5, 0.3, 0.15, 0.07])
    history, right = TreeHistory(nodes), np.array([0.9, 0.6, 0.3, 0.2, 0.1, 0.0])
    assert np.allclose(history.gains([row])[0], (PRIOR ** np.arange(1, 7)).cumsum())
    for _ in range(1000):
        path = tuple(node for node in range(nodes) if rng.random() < right[node])
        history.add(row, nodes, Round((0,) * nodes, len(path), len(path) + 1, 4, path), Nodes(said, np.arange(nodes)))
        history.update()
    assert np.allclose(history.chances(said), right, atol=0.12)
    assert np.allclose(history.gains([sequence()])[0], right.cumsum(), atol=0.3)
    assert history.factor(row) == pytest.approx(1, abs=0.2)


def test_nodes_that_were_not_verified_count_as_their_chances_say() -> None:
    """A drafter that is sure in every other round, and verified only there, does not look sure in all."""
    history, row = TreeHistory(3), sequence(1000)
    for _ in range(400):
        history.add(row, 3, Round((0, 0), 2, 3, 2, (0, 1)), Nodes(np.array([1.0, 1.0, 0.0]), np.arange(2)))
        history.add(row, 3, Round((), 0, 1), Nodes(np.array([0.2, 0.1, 0.1]), np.arange(0)))
        history.update()
    assert np.allclose(history.shares, [0.6, 0.55, 0.1], atol=0.08)
    assert history.chances(np.array([0.97, 0.03])) == pytest.approx([0.97, 0.03], abs=0.01)


def test_a_drafter_may_be_right_when_it_is_sure_and_wrong_when_it_doubts() -> None:
    history, row = TreeHistory(4), sequence(1000)
    nodes = Nodes(np.array([0.95, 0.5, 0.3, 0.02]), np.arange(4))
    for n in range(200):
        history.add(row, 4, Round((0,) * 4, 1 + (n % 4 == 0), 3, 2, (0, 1) if n % 4 == 0 else (0,)), nodes)
    assert history.chances(nodes.said) == pytest.approx([1, 0.25, 0.04, 0.02], abs=0.04)


def test_rows_have_an_acceptance_of_their_own_and_keep_no_more_than_they_have_room_for() -> None:
    history, good, bad, nodes = TreeHistory(4), sequence(), sequence(), Nodes(np.full(4, 0.25), np.arange(4))
    for _ in range(60):
        history.add(good, 4, Round((1, 2, 3, 4), 2, 3, 2, (0, 2)), nodes)
        history.add(bad, 4, Round((1, 2, 3, 4), 0, 1, 2), nodes)
        history.update()
    of_good, of_bad, of_new = history.gains([good, bad, sequence()])
    assert of_good[3] > 1.7 > 1.2 > of_new[3] > 0.8 > 0.3 > of_bad[3]
    assert history.rejection(good) < 1 < history.rejection(bad)
    assert history.room(sequence(1)) == 0 and history.room(sequence(2)) == 4
    assert history.gains([sequence(2)])[0].max() <= 1
    before = history.seen.copy()
    history.add(good, 4, Round((1, 2, 3, 4), 3, 2, 2, (0, 2, 3)), nodes)  # its text ended within the round
    assert (history.seen == before).all()


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

    class Given3(FixedTree):
        def choose(self, sequences: list[Sequence]) -> list[int]:
            return sizes[: len(sequences)]

    def first_rounds(tree: int, own: bool) -> list[Round]:
        engine = Engine(target, drafter, tree=tree)
        if own:
            engine.lengths = Given3(5)
        sequences = [engine.add(Request(prompt, 20, stops=frozenset())) for prompt in prompts]
        engine.step()
        return [s.generation.rounds[0] for s in sequences]

    own, five, two = first_rounds(5, True), first_rounds(5, False), first_rounds(2, False)
    assert own[0].drafted == five[0].drafted and own[2].drafted == two[2].drafted and not own[1].drafted
    assert (own[1].depth, own[1].path) == (None, ())


@pytest.mark.parametrize(
    ("growing", "temperature", "trees"), [(0.0, 0.0, True), (0.01, 0.0, True), (0.3, 0.0, False), (0.0, 1.0, False)]
)
def test_auto_drafts_trees_where_they_cost_little_more_than_chains(
    growing: float, temperature: float, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where no row is sampled; an engine that is told to draft chains always does."""

    def costs(target: Target, drafter: Drafter, most: int, tree: int | None = None) -> Given:
        given = Given(tree or most)
        given.growing = growing
        return given

    monkeypatch.setattr("paradraft.decoding.confidence.MeasuredCosts", costs)
    target = Target(make_model("llama"))
    drafter = make_drafter(target, block_size=5)
    for tree, wanted in ((None, trees), (0, False)):
        engine = Engine(target, drafter, Sampling(temperature), "auto", tree=tree)
        (generation,) = engine.generate([[4, 9, 2]], 30, ())
        assert {r.depth is not None for r in generation.rounds if r.drafted} <= {wanted, False}
        assert any(r.depth is not None for r in generation.rounds) == wanted
        assert (engine.lengths.nodes is not None) == wanted


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
        if rng.random() < 0.5:
            target.prepare_decoding()  # which packs
        engine = Engine(target, drafter, max_rows=rng.choice([None, 2]), tree=nodes, draft_length="auto")
        costs = Given(nodes, rng.choice([0.0, 0.02]), rng.choice([0.0, 0.05, 0.2]))
        costs.branching = rng.choice([0.0, 0.2])
        costs.padded = rng.choice([None, 0.0, 0.01])
        engine.lengths = TimedTree(nodes, costs)
        sequences = [engine.add(Request(prompt, new, stops=frozenset())) for prompt in prompts]
        assert [s.generation.tokens for s in finish(engine, sequences)] == plain
        used |= {len(r.drafted) for s in sequences for r in s.generation.rounds}
    assert len(used) > 2 and 0 in used


def test_sizes_by_what_the_drafter_says_do_not_change_what_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was drawn when the number of verified nodes is chosen, here after each round's own first probability."""
    target, used = flat_target(), Counter[int]()

    class AsSure(FixedTree):
        def paying(self, draft: Draft) -> Draft:
            assert draft.scores is not None
            size = int(1000 * draft.scores[0, 0].exp()) % (self.most + 1)
            used[size] += 1
            return draft.first([size] * len(draft.tokens))

    monkeypatch.setattr("paradraft.decoding.engine.FixedTree", AsSure)
    drafter = make_drafter(target, block_size=4)
    result = check_distribution(target, drafter, [[1, 2, 3]], 1600, Sampling(1.0), batch_size=2, tree=6)
    assert result.passed and result.cells > 20, result
    assert len(used) > 4 and used[0] and min(used.values()) > 20, used


@pytest.mark.parametrize("rule", ["tree_residual", "tree"])
def test_adaptive_trees_do_not_change_what_is_sampled(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, used, paying = flat_target(), set[int](), Confident.paying

    def watched(self: Confident, draft: Draft) -> Draft:
        found = paying(self, draft)
        used.add(found.tokens.shape[1])
        return found

    monkeypatch.setattr(
        "paradraft.decoding.confidence.MeasuredCosts", lambda target, drafter, most, tree: Given(tree, 0.0042, 0.3)
    )
    monkeypatch.setattr(Confident, "paying", watched)
    drafter, prompts = make_drafter(target, block_size=4), [[1, 2, 3], [7]]
    result = check_distribution(
        target, drafter, prompts, 20_000, Sampling(1.0), batch_size=200, draft_length="auto", tree=6, acceptance=rule
    )
    assert result.passed and result.cells > 50, result
    assert len(used) > 1, used


def test_an_engine_measures_trees_by_itself(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their costs are kept apart from those of chains, and a drafter that is right drafts."""
    monkeypatch.setenv("PARADRAFT_CACHE", str(tmp_path))
    target, prompt = Target(make_model("llama", seed=3)), [4, 9, 2]
    answer = transformers_greedy(target, prompt, 60)
    drafter = oracle(target, prompt + answer, 1000)
    for tree in (0, 3):
        engine = Engine(target, drafter, draft_length="auto", tree=tree)
        (generation,) = engine.generate([prompt], 60, ())
        assert generation.tokens == answer
    assert len(list((tmp_path / "costs").glob("*.json"))) == 2
