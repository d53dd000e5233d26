"""Every acceptance rule leaves the target's joint distribution as it is: exactly, by integration over all its noise."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from paradraft.decoding.acceptance import ACCEPTANCE, Rule, chain
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


def test_a_rule_that_is_not_lossless_is_seen() -> None:
    def no_residual(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
        found = chain(draft, target, noise)
        at_end = target[torch.arange(len(target)), found.counts]
        return Accepted(found.counts, draw(at_end, noise.last))

    assert error_of(no_residual, World(3, 2, seed=3), True)[0] > 1e-3
