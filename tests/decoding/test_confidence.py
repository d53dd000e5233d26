"""What of a tree is verified: what pays by what the drafter says of it, once it is known how far to believe it."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from paradraft.decoding.confidence import Confident, best_offer, likeliest_chain
from paradraft.decoding.draft import Draft
from paradraft.decoding.history import Nodes, TreeHistory
from paradraft.decoding.request import Round, Sequence

from .test_length import Given, sequence


class TimedTree(Confident):
    """Rounds take as long as the costs say."""

    def __init__(self, nodes: int, costs: Given) -> None:
        super().__init__(costs, TreeHistory(nodes))

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float = 0.0) -> None:
        super().learn(sequences, lengths, self.expected(sequences, lengths))


class Texts:
    """Rounds in which the drafter gives the nodes these probabilities by turns. The true ones: `right` times those."""

    def __init__(self, said: list[list[float]], right: float = 1.0, rows: int = 1) -> None:
        self.said, self.right, self.rng = itertools.cycle(said), right, random.Random(0)
        self.rows = [sequence(100_000) for _ in range(rows)]

    def decode(self, rule: Confident, rounds: int) -> tuple[list[tuple[float, int]], float]:
        """Of every round what the first node's probability was (0: a plain step) and how many were verified.

        And tokens a second.
        """
        sizes, tokens, seconds = [], 0, 0.0
        for _ in range(rounds):
            lengths = rule.choose(self.rows)
            said = next(self.said)[: max(lengths)] if any(lengths) else []
            verified = 0
            if said:
                scores = torch.tensor([said if length else [0.0] * len(said) for length in lengths]).log()
                nothing = torch.zeros(scores.shape, dtype=torch.long)
                siblings = Draft(nothing, torch.tensor(lengths), nothing - 1, None, scores)
                verified = rule.paying(siblings).tokens.shape[1]
            for row, length in zip(self.rows, lengths, strict=True):
                size = min(verified, length)
                path = tuple(n for n in range(size) if self.rng.random() < self.right * said[n])
                row.generation.rounds.append(Round((0,) * size, len(path), len(path) + 1, 1 if size else None, path))
                tokens += len(path) + 1
            seconds += rule.expected(self.rows, lengths)
            rule.learn(self.rows, lengths, 0.0)
            sizes.append((said[0] if said else 0.0, verified))
        return sizes, tokens / seconds


class InOnePass(Given):
    """Drafting many nodes takes as long as drafting one."""

    def draft(self, rows: int) -> np.ndarray:
        return self.start * (np.arange(self.most + 1) > 0) * np.ones((rows, 1))


SURE, UNSURE = [0.95, 0.9, 0.8, 0.7, 0.5, 0.05, 0.02, 0.02], [0.3, 0.2, 0.1, 0.06, 0.05, 0.03, 0.02, 0.01]


@pytest.mark.parametrize("right", [1.0, 0.7])
@pytest.mark.parametrize("rows", [1, 4])
def test_as_many_nodes_are_verified_as_pay_in_this_round(right: float, rows: int) -> None:
    """More where the drafter is sure, and more tokens a second than with any fixed number, by what is known here."""
    costs = InOnePass(8, token=0.06 / rows, start=0.58, row=0.0)
    rule = TimedTree(8, costs)
    sizes, rate = Texts([SURE, UNSURE], right, rows).decode(rule, 4000)
    sure, unsure = (np.mean([n for first, n in sizes[2000:] if first == said[0]]) for said in (SURE, UNSURE))
    assert sure - 2 > unsure > 0.5

    def fixed(first: int, second: int) -> float:
        kept = right * (sum(SURE[:first]) + sum(UNSURE[:second]))
        seconds = sum(float(costs.verify(rows)[n] + costs.draft(rows)[-1, 8]) for n in (first, second))
        return rows * (2 + kept) / seconds

    best = max(fixed(a, b) for a in range(9) for b in range(9))
    equal = max(fixed(n, n) for n in range(9))
    assert 0.985 * best < rate < 1.015 * best and rate > 1.01 * equal
    assert 1.003 < rule.surplus < 1.06


def test_a_drafter_that_is_wrong_for_sure_soon_drafts_nothing() -> None:
    sizes, rate = Texts([SURE], 0.0).decode(TimedTree(8, Given(8)), 2000)
    assert sizes[0][1] >= 4 and np.mean([first > 0 for first, _ in sizes[200:]]) < 0.05
    assert rate > 0.97


@pytest.mark.parametrize("rows", [1, 4])
def test_what_it_learned_of_other_texts_costs_little(rows: int) -> None:
    """From a text where drafting pays much to one where it does not at all, and back."""
    rule, costs = TimedTree(8, Given(8, token=0.05, start=0.3, row=0.0)), Given(8, row=0.0)
    Texts([SURE], rows=rows).decode(rule, 300)
    sizes, rate = Texts([[0.1] * 8], rows=rows).decode(rule, 120)
    assert rate > 0.92 * rows / float(costs.verify(rows)[0]) and sizes[-1] == (0.0, 0)
    sizes, _ = Texts([SURE], rows=rows).decode(rule, 120)
    assert np.mean([n > 3 for _, n in sizes]) > 0.8


def test_a_probability_that_looked_too_bad_gets_another_chance() -> None:
    history, row, everything = TreeHistory(2), sequence(1000), Nodes(np.array([0.95, 0.3]), np.arange(2))
    for _ in range(50):
        history.add(row, 2, Round((0, 0), 1, 2, 1, (0,)), everything)
    assert history.chances(everything.said)[1] < 0.1
    for _ in range(300):
        history.add(row, 2, Round((0,), 1, 2), Nodes(everything.said, np.arange(1)))
    assert history.chances(everything.said)[1] > 0.25


def test_in_a_round_without_hope_nothing_that_was_drafted_is_verified() -> None:
    """Such rounds do not make those plain steps that the drafter is sure of."""
    sizes, _ = Texts([SURE, SURE, [0.01] * 8]).decode(TimedTree(8, Given(8)), 600)
    assert {n for first, n in sizes if first == 0.01} == {0} and {n for first, n in sizes[100:] if first == 0.95} == {5}
    assert np.mean([first == 0 for first, _ in sizes]) < 0.05


def drafted_tree() -> Draft:
    """0.9 and 0.8 one after the other, 0.15 beside the second; the first number of a token is its depth."""
    scores = torch.tensor([[0.9, 0.72, 0.135]]).log()
    return Draft(torch.tensor([[11, 21, 22]]), torch.tensor([3]), torch.tensor([[-1, 0, 0]]), None, scores)


@pytest.mark.parametrize(
    ("branching", "tokens", "verified"), [(0.0, [11, 21, 22], [0, 1, 2]), (0.15, [11, 21], [0, 1])]
)
def test_branches_are_left_out_where_they_do_not_pay(branching: float, tokens: list[int], verified: list[int]) -> None:
    costs, row = Given(8, token=0.1, start=0.1), sequence()
    costs.branching = branching
    rule = TimedTree(8, costs)
    rule.choose([row])
    rule.rate = 1.0
    found = rule.paying(drafted_tree())
    assert found.tokens.tolist() == [tokens] and found.lengths.tolist() == [len(tokens)]
    assert (found.parents is None) == (len(tokens) == 2)
    nodes = rule.nodes_of(0)
    assert nodes is not None and nodes.verified.tolist() == verified
    as_tree = costs.verify(1)[len(tokens)]
    assert rule._verifying == pytest.approx(as_tree if len(tokens) == 3 else max(1, as_tree - branching))


def test_the_first_nodes_of_a_tree_are_a_tree() -> None:
    two, none = drafted_tree().first([2]), drafted_tree().first([0])
    assert two.tokens.tolist() == [[11, 21]] and two.lengths.tolist() == [2]
    assert two.parents is not None and two.parents.tolist() == [[-1, 0]]
    one = drafted_tree()
    assert one.parents is not None and one.scores is not None
    tokens, parents, scores = (part.expand(2, -1) for part in (one.tokens, one.parents, one.scores))
    unequal = Draft(tokens, torch.tensor([3, 3]), parents, None, scores).first([2, 1])
    assert unequal.lengths.tolist() == [2, 1] and unequal.tokens.shape == (2, 2)
    shorter = Draft(tokens, torch.tensor([1, 3]), parents, None, scores).first([3, 0])
    assert shorter.lengths.tolist() == [1, 0] and shorter.tokens.shape == (2, 1)
    assert none.parents is None and none.tokens.shape == (1, 0) and none.lengths.tolist() == [0]


def test_the_likeliest_chain_is_a_path() -> None:
    assert likeliest_chain([-1, 0, -1, 1, 2, 4, 3]) == [0, 1, 3, 6]
    assert likeliest_chain([]) == []


def test_spare_nodes_are_drafted_as_far_as_they_cost_little() -> None:
    dear, cheap, free = Given(8, token=0.1, start=0.1), Given(8, token=0.0201, start=0.1), InOnePass(8)
    assert [TimedTree(8, costs)._with_spare(1, 1, 3) for costs in (dear, cheap, free)] == [3, 6, 8]
    assert TimedTree(8, free)._with_spare(1, 1, 0) == 0


def worth(sizes: tuple[int, ...], chances: np.ndarray, verify: np.ndarray, padding: float | None, rate: float) -> float:
    """Of verifying sizes[r] nodes of each row, as the docstrings of length.py and confidence.py have it."""
    kept = sum(float(row[:size].sum()) for row, size in zip(chances, sizes, strict=True))
    places = np.arange(len(verify))
    if padding is None:
        return kept - rate * float(np.interp(max(sizes), places, verify))
    seconds = float(np.interp(np.mean(sizes), places, verify)) + padding * (len(sizes) * max(sizes) - sum(sizes))
    return kept - rate * seconds


@pytest.mark.parametrize("padding", [0.0, 0.02, 0.09, None])
def test_of_all_numbers_of_nodes_those_are_verified_that_bring_most(padding: float | None) -> None:
    rng, unequal = np.random.default_rng(0), 0
    for _ in range(100):
        rows, nodes, rate = int(rng.integers(2, 4)), 3, float(rng.uniform(0.3, 3))
        chances, verify = np.sort(rng.random((rows, nodes)))[:, ::-1], 1 + np.sort(rng.random(nodes + 1))
        found = best_offer(chances, verify, padding, 1.1, rate)
        given = chances, 1.1 * verify, None if padding is None else 1.1 * padding, rate
        best = max(worth(sizes, *given) for sizes in itertools.product(range(nodes + 1), repeat=rows))
        assert worth(tuple(found.sizes), *given) == pytest.approx(best) == pytest.approx(found.worth(rate))
        unequal += len(set(found.sizes)) > 1
    assert (padding is None) == (unequal == 0), unequal


def test_no_node_is_verified_without_those_before_it() -> None:
    """Corrected probabilities need not fall from node to node."""
    chances = np.array([[0.2, 0.9], [0.5, 0.1]])
    assert best_offer(chances, np.array([1.0, 1.7, 2.4]), 0.0, 1.0, 1.0).sizes == [2, 1]
    chances[0, 1] = 0.4
    assert best_offer(chances, np.array([1.0, 1.7, 2.4]), 0.0, 1.0, 1.0).sizes == [0, 1]


def test_nodes_whose_chances_round_to_nothing_may_be_verified() -> None:
    """At a temperature of 0.01 a sure drafter gives a real node probability 0; other rows decide how many to verify."""
    history, row = TreeHistory(4), sequence(1000)
    history.add(row, 4, Round((0,) * 4, 1, 2, 2, (0,)), Nodes(np.array([1.0, 0.5, 0.0, 0.0]), np.arange(4)))
    assert history.seen.tolist() == [1.0] * 4
