"""Sampling distributions and acceptance rules, each against its definition."""

from __future__ import annotations

import pytest
import torch

from paradraft.decoding.acceptance import accept_greedy, accept_sampled
from paradraft.decoding.sampling import Sampling, distribution, sample
from paradraft.errors import UserError


def test_distribution_equals_transformers_warpers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(50, 30)
    for temperature, top_k, top_p in ((0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (0.9, 8, 0.8)):
        scores = TemperatureLogitsWarper(temperature)(None, logits)
        scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
        scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
        torch.testing.assert_close(distribution(logits, Sampling(temperature, top_k, top_p)), scores.softmax(-1))


def test_impossible_sampling_settings_are_refused() -> None:
    for settings in ((-1.0, 0, 1.0), (1.0, -2, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.5)):
        with pytest.raises(UserError):
            Sampling(*settings)


def test_greedy_keeps_the_longest_agreeing_prefix() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[3, 1, 4, 2], [3, 1, 4, 2], [0, 1, 4, 2]]), 5).float()
    drafts = torch.tensor([[3, 1, 4], [3, 0, 4], [3, 1, 4]])
    accepted, following = accept_greedy(drafts, logits)
    assert accepted.tolist() == [3, 1, 0]
    assert following.tolist() == [2, 1, 0]


def test_without_drafts_the_rules_are_plain_decoding() -> None:
    logits = torch.randn(4, 1, 6)
    accepted, following = accept_greedy(torch.zeros(4, 0, dtype=torch.long), logits)
    assert accepted.tolist() == [0] * 4 and torch.equal(following, logits[:, 0].argmax(-1))
    probabilities = torch.nn.functional.one_hot(logits.argmax(-1), 6).float()
    accepted, following = accept_sampled(torch.zeros(4, 0, dtype=torch.long), None, probabilities, None)
    assert accepted.tolist() == [0] * 4 and torch.equal(following, logits[:, 0].argmax(-1))


@pytest.mark.parametrize("point_mass", [False, True])
def test_first_emitted_token_has_the_targets_distribution(point_mass: bool) -> None:
    """Exactly: sum over drafts of q(x) [accept x] + rejection mass x residual = p, here by many samples."""
    torch.manual_seed(0)
    count = 200_000
    p, q = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    target = p.expand(count, 2, 4)
    if point_mass:
        drafts, draft = torch.full((count, 1), 2), None
    else:
        drafts, draft = sample(q.expand(count, 1, 4), None), q.expand(count, 1, 4)
    accepted, following = accept_sampled(drafts, draft, target, None)
    first = torch.where(accepted > 0, drafts[:, 0], following)
    frequencies = torch.bincount(first, minlength=4) / count
    assert (frequencies - p).abs().max() < 5 * (0.25 / count) ** 0.5
    wanted = 0.15 if point_mass else float(torch.minimum(p, q).sum())
    assert abs(float(accepted.float().mean()) - wanted) < 0.006


def test_equal_distributions_accept_everything() -> None:
    probabilities = torch.rand(500, 4, 7).softmax(-1)
    drafts = sample(probabilities[:, :3], None)
    accepted, _ = accept_sampled(drafts, probabilities[:, :3], probabilities, None)
    assert (accepted == 3).all()
