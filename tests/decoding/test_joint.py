"""Every acceptance rule leaves the target's joint distribution as it is: exactly, by integration over all its noise."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from paradraft.decoding.acceptance import ACCEPTANCE, TREE_ACCEPTANCE, Rule, chain
from paradraft.decoding.draft import Accepted, Draft, Noise
from paradraft.decoding.sampling import draw
from tests.decoding.enumeration import World, committed, largest_difference

EXACT = 1e-12


def chains(world: World, sampled: bool) -> tuple[Draft, Tensor, Tensor]:
    """All drafts of a world with their probabilities, and the target's distributions along them."""
    texts = list(product(range(world.vocabulary), repeat=world.depth))
    q = torch.stack([torch.stack([world.q[text[:n]] for n in range(world.depth)]) for text in texts])
    tokens = torch.tensor(texts)
    if sampled:
        weights = q.gather(-1, tokens[..., None]).squeeze(-1).prod(-1)
    else:  # any choice without chance will do: here each draft with the same weight
        weights = torch.full((len(texts),), 1 / len(texts), dtype=torch.float64)
    targets = torch.stack([torch.stack([world.p[text[:n]] for n in range(world.depth + 1)]) for text in texts])
    lengths = torch.full((len(texts),), world.depth)
    return Draft(tokens, lengths, None, q if sampled else None), weights, targets


def error_of(rule: Rule, world: World, sampled: bool) -> tuple[float, float]:
    """The largest error of the joint distribution, and the mean number of committed tokens."""
    found, length = committed(rule, *chains(world, sampled))
    return largest_difference(world.continued(found), world.joint()), length


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("name", ["chain", "block"])
@pytest.mark.parametrize(("vocabulary", "depth"), [(3, 2), (2, 3), (4, 1)])
def test_chain_rules_are_lossless(name: str, sampled: bool, vocabulary: int, depth: int) -> None:
    error, _ = error_of(ACCEPTANCE[name], World(vocabulary, depth, seed=vocabulary), sampled)
    assert error < EXACT


def test_block_verification_keeps_more() -> None:
    """And exactly as much as chain with a single drafted token."""
    for depth in (1, 2, 3):
        world = World(2, depth, seed=7)
        gain = error_of(ACCEPTANCE["block"], world, True)[1] - error_of(chain, world, True)[1]
        assert gain > 0.01 if depth > 1 else abs(gain) < EXACT


TREES = {  # texts of the nodes, parents before children
    "two chains": ["a", "b", "aa", "bb"],
    "a whole level": ["a", "b", "c", "ca"],
    "one deep": ["b", "ba", "bac", "baa"],
    "children everywhere": ["c", "a", "cb", "ca", "ab", "cab"],
}


def tree_of(world: World, texts: list[str], padding: int = 0) -> tuple[Draft, Tensor, Tensor]:
    """A tree as a draft, with the target's distributions at its nodes."""
    paths = [tuple(ord(letter) - ord("a") for letter in text) for text in texts]
    parents = [paths.index(path[:-1]) if len(path) > 1 else -1 for path in paths] + [-1] * padding
    tokens = torch.tensor([[path[-1] for path in paths] + [0] * padding])
    target = torch.stack([world.p[path] for path in [(), *paths, *[()] * padding]])[None]
    draft = Draft(tokens, torch.tensor([len(paths)]), torch.tensor([parents]))
    return draft, torch.ones(1, dtype=torch.float64), target


@pytest.mark.parametrize("texts", TREES.values(), ids=TREES)
@pytest.mark.parametrize("name", TREE_ACCEPTANCE)
def test_tree_rules_are_lossless(name: str, texts: list[str]) -> None:
    world = World(3, 3, seed=len(texts[-1]))
    found, length = committed(TREE_ACCEPTANCE[name], *tree_of(world, texts))
    assert largest_difference(world.continued(found), world.joint()) < EXACT
    paths = [tuple(ord(letter) - ord("a") for letter in text) for text in texts]
    assert abs(length - 1 - sum(world.likelihood((), path) for path in paths)) < EXACT  # as best_tree expects it


def test_the_tree_rules_keep_the_same_texts() -> None:
    world = World(3, 3, seed=5)
    for texts in TREES.values():
        first, second = (committed(rule, *tree_of(world, texts))[0] for rule in TREE_ACCEPTANCE.values())
        assert largest_difference(first, second) < EXACT


@pytest.mark.parametrize("name", TREE_ACCEPTANCE)
def test_padding_of_a_tree_is_never_kept(name: str) -> None:
    world, rule = World(3, 2, seed=6), TREE_ACCEPTANCE[name]
    for texts in (["b"], ["b", "ba"]):
        padded, plain = (committed(rule, *tree_of(world, texts, padding))[0] for padding in (2, 0))
        assert largest_difference(padded, plain) < EXACT


def test_a_tree_without_branches_is_a_chain() -> None:
    """The same noise, the same text: the residual rule is `chain` with drafts chosen without chance."""
    torch.manual_seed(0)
    rows, steps = 500, 5
    target, tokens = (2 * torch.randn(rows, steps + 1, 4)).softmax(-1), torch.randint(0, 4, (rows, steps))
    lengths, parents = torch.randint(0, steps + 1, (rows,)), torch.arange(-1, steps - 1).expand(rows, -1)
    noise = Noise(torch.rand(rows, steps, dtype=torch.float64), torch.rand(rows, dtype=torch.float64))
    wanted = chain(Draft(tokens, lengths), target, noise)
    found = TREE_ACCEPTANCE["tree_residual"](Draft(tokens, lengths, parents), target, noise)
    assert torch.equal(found.counts, wanted.counts) and torch.equal(found.next, wanted.next)
    assert wanted.counts.unique().numel() == steps + 1


def test_a_rule_that_is_not_lossless_is_seen() -> None:
    def no_residual(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
        found = chain(draft, target, noise)
        at_end = target[torch.arange(len(target)), found.counts]
        return Accepted(found.counts, draw(at_end, noise.last))

    assert error_of(no_residual, World(3, 2, seed=3), True)[0] > 1e-3
