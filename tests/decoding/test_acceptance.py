"""Acceptance rules, each against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paradraft.decoding.acceptance import ACCEPTANCE, TREE_ACCEPTANCE, accept, chain
from paradraft.decoding.draft import Accepted, Draft, Noise
from paradraft.decoding.sampling import Sampling, draw

RULES = tuple(ACCEPTANCE.values())


def draft_of(tokens: Tensor, probabilities: Tensor | None = None, lengths: Tensor | None = None) -> Draft:
    rows, steps = tokens.shape
    return Draft(tokens, torch.full((rows,), steps) if lengths is None else lengths, None, probabilities)


def noise_for(rows: int, steps: int) -> Noise:
    return Noise(torch.rand(rows, steps, dtype=torch.float64), torch.rand(rows, dtype=torch.float64))


def greedily(draft: Draft, logits: Tensor) -> Accepted:
    return accept("chain", draft, logits, [Sampling()] * len(logits), None)


def test_greedy_keeps_the_longest_agreeing_prefix() -> None:
    logits = F.one_hot(torch.tensor([[3, 1, 4, 2], [3, 1, 4, 2], [0, 1, 4, 2]]), 5).float()
    accepted = greedily(draft_of(torch.tensor([[3, 1, 4], [3, 0, 4], [3, 1, 4]])), logits)
    assert accepted.counts.tolist() == [3, 1, 0]
    assert accepted.next.tolist() == [2, 1, 0]


@pytest.mark.parametrize("rule", ACCEPTANCE)
def test_greedy_rows_are_point_masses_in_every_rule(rule: str) -> None:
    """One rule for all: a greedy row beside a sampled one gets what it gets alone, padding never counts."""
    torch.manual_seed(0)
    logits = torch.randn(64, 5, 2)
    tokens, lengths = torch.randint(0, 2, (64, 4)), torch.randint(0, 5, (64,))
    wanted = greedily(draft_of(tokens, None, lengths), logits)
    for probabilities in (None, F.one_hot(tokens, 2).float()):
        samplings = [Sampling() for _ in range(63)] + [Sampling(1.0)]
        found = accept(rule, draft_of(tokens, probabilities, lengths), logits, samplings, noise_for(64, 4))
        assert torch.equal(found.counts[:63], wanted.counts[:63]) and torch.equal(found.next[:63], wanted.next[:63])
        assert (found.counts <= lengths).all()
    assert wanted.counts.max() > 2


def test_without_drafts_the_rules_are_plain_decoding() -> None:
    logits = torch.randn(4, 1, 6)
    nothing = draft_of(torch.zeros(4, 0, dtype=torch.long))
    certain = F.one_hot(logits.argmax(-1), 6).float()
    for accepted in (greedily(nothing, logits), *(rule(nothing, certain, noise_for(4, 0)) for rule in RULES)):
        assert accepted.counts.tolist() == [0] * 4 and torch.equal(accepted.next, logits[:, 0].argmax(-1))


@pytest.mark.parametrize("point_mass", [False, True])
def test_first_emitted_token_has_the_targets_distribution(point_mass: bool) -> None:
    """Exactly: sum over drafts of q(x) [accept x] + rejection mass x residual = p, here by many samples."""
    torch.manual_seed(0)
    count = 200_000
    p, q = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    target = p.expand(count, 2, 4)
    if point_mass:
        draft = draft_of(torch.full((count, 1), 2))
    else:
        draft = draft_of(draw(q.expand(count, 1, 4), torch.rand(count, 1)), q.expand(count, 1, 4))
    accepted = chain(draft, target, noise_for(count, 1))
    first = torch.where(accepted.counts > 0, draft.tokens[:, 0], accepted.next)
    frequencies = torch.bincount(first, minlength=4) / count
    assert (frequencies - p).abs().max() < 5 * (0.25 / count) ** 0.5
    wanted = 0.15 if point_mass else float(torch.minimum(p, q).sum())
    assert abs(float(accepted.counts.float().mean()) - wanted) < 0.006


def test_greedy_rows_of_trees() -> None:
    """The path of the target's most likely tokens, alone and beside sampled rows, in every rule."""
    torch.manual_seed(0)
    rows, nodes = 64, 7
    parents = torch.tensor([-1, -1, 0, 0, 1, 2, 5]).expand(rows, -1)
    tokens = torch.tensor([0, 1, 1, 0, 0, 1, 0]).expand(rows, -1)
    draft = Draft(tokens, torch.randint(0, nodes + 1, (rows,)), parents)
    logits = torch.randn(rows, nodes + 1, 2)
    wanted = greedily(draft, logits)
    assert wanted.path is not None and wanted.counts.max() >= 3
    for row in range(rows):
        node, path = 0, [0]
        while True:
            choice = int(logits[row, node].argmax())
            children = [
                n + 1
                for n in range(int(draft.lengths[row]))
                if parents[row, n] + 1 == node and tokens[row, n] == choice
            ]
            if not children:
                break
            path.append(node := children[0])
        assert wanted.path[row, : len(path)].tolist() == path and wanted.counts[row] == len(path) - 1
        assert wanted.next[row] == choice
    for rule in TREE_ACCEPTANCE:
        found = accept(rule, draft, logits, [Sampling()] * 63 + [Sampling(1.0)], noise_for(rows, nodes))
        assert found.path is not None
        assert torch.equal(found.counts[:63], wanted.counts[:63]) and torch.equal(found.next[:63], wanted.next[:63])
        for row, count in enumerate(found.counts[:63].tolist()):
            assert torch.equal(found.path[row, : count + 1], wanted.path[row, : count + 1])


@pytest.mark.parametrize("rule", ACCEPTANCE)
def test_behind_a_shorter_draft_the_target_itself_is_sampled(rule: str) -> None:
    """Not its residual: padding was not rejected."""
    p = torch.tensor([0.5, 0.5]).expand(2000, 3, 2)
    draft = draft_of(torch.zeros(2000, 2, dtype=torch.long), None, torch.zeros(2000, dtype=torch.long))
    accepted = ACCEPTANCE[rule](draft, p, noise_for(2000, 2))
    assert (accepted.counts == 0).all() and 0.4 < accepted.next.float().mean() < 0.6


@pytest.mark.parametrize("rule", ACCEPTANCE)
def test_padding_changes_nothing(rule: str) -> None:
    torch.manual_seed(0)
    target, q = torch.rand(300, 5, 6).softmax(-1), (2 * torch.randn(300, 4, 6)).softmax(-1)
    tokens, noise = draw(q, torch.rand(300, 4)), noise_for(300, 4)
    for probabilities in (None, q):
        short = draft_of(tokens[:, :2], None if probabilities is None else q[:, :2])
        padded = draft_of(tokens, probabilities, torch.full((300,), 2))
        wanted = ACCEPTANCE[rule](short, target[:, :3], Noise(noise.accept[:, :2], noise.last))
        found = ACCEPTANCE[rule](padded, target, noise)
        assert torch.equal(found.counts, wanted.counts) and torch.equal(found.next, wanted.next)


@pytest.mark.parametrize("rule", ACCEPTANCE)
def test_equal_distributions_accept_everything(rule: str) -> None:
    probabilities = torch.rand(500, 4, 7).softmax(-1)
    drafts = draw(probabilities[:, :3], torch.rand(500, 3))
    accepted = ACCEPTANCE[rule](draft_of(drafts, probabilities[:, :3]), probabilities, noise_for(500, 3))
    assert (accepted.counts == 3).all()
