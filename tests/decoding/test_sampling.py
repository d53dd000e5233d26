"""From logits to tokens: the distributions, and the noise that picks from them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from paradraft.decoding.draft import TreeSampler
from paradraft.decoding.sampling import Sampling, distribution, distributions, draw, key_of, noise
from paradraft.errors import UserError


def test_distribution_equals_transformers_warpers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(50, 30)
    for temperature, top_k, top_p in ((0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (0.9, 8, 0.8)):
        scores = TemperatureLogitsWarper(temperature)(None, logits)
        scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
        scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
        torch.testing.assert_close(distribution(logits, Sampling(temperature, top_k, top_p)), scores.softmax(-1))


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-320])
def test_the_smallest_temperatures_are_as_good_as_greedy(temperature: float) -> None:
    logits = torch.tensor([[3.0, -2.0, 9.0, 8.5], [0.0, 0.0, -1.0, float("-inf")]])
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.9)):
        found = distribution(logits, Sampling(temperature, top_k, top_p))
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0]]))


def test_trees_of_the_smallest_temperatures_are_those_of_the_likeliest_tokens() -> None:
    logits = torch.randn(1, 3, 8)
    sampler = TreeSampler([Sampling(1e-39)], [3], 3)
    assert torch.equal(sampler(logits)[0], logits.argmax(-1))


def test_rows_have_settings_of_their_own() -> None:
    logits = torch.randn(4, 3, 20)
    settings = [Sampling(), Sampling(0.5), Sampling(2.0, top_k=3), Sampling(0.5)]
    found = distributions(logits, settings)
    for row, sampling in enumerate(settings):
        assert torch.equal(found[row], distribution(logits[row], sampling))
    assert torch.equal(found[0], F.one_hot(logits[0].argmax(-1), 20).float())


def test_impossible_sampling_settings_are_refused() -> None:
    for settings in ((-1.0, 0, 1.0), (1.0, -2, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.5)):
        with pytest.raises(UserError):
            Sampling(*settings)


def test_draws_follow_the_weights_and_never_take_a_zero() -> None:
    weights = torch.tensor([0.0, 0.2, 0.0, 0.6, 0.2, 0.0])
    uniform = torch.arange(1000) / 1000
    counts = torch.bincount(draw(weights.expand(1000, -1), uniform), minlength=6)
    assert counts.tolist() == [0, 200, 0, 600, 200, 0]
    assert torch.equal(draw(weights.expand(1000, -1) * 7, uniform), draw(weights.expand(1000, -1), uniform))
    many = torch.full((1, 200_000), 1 / 200_000)
    assert abs(int(draw(many, torch.tensor([0.75]))) - 150_000) <= 1


def test_noise_is_a_rows_own_and_goes_on() -> None:
    keys = [key_of(0, n) for n in range(200)]
    whole = noise(keys, [0] * 200, 100)
    assert torch.equal(noise(keys[5:7], [0, 40], 10), torch.stack((whole[5, :10], whole[6, 40:50])))
    assert whole.unique().numel() == whole.numel() and whole.min() >= 0 and whole.max() < 1
    buckets = torch.bincount((whole.flatten() * 20).long(), minlength=20)
    assert (buckets - 1000).abs().max() < 160  # five standard deviations
    neighbours = torch.corrcoef(torch.stack((whole[:-1].flatten(), whole[1:].flatten())))[0, 1]
    assert neighbours.abs() < 0.04
    assert len({key_of(1, 2), key_of(2, 1), key_of(1), key_of(2), key_of(-1), key_of(0, 0), key_of(0)}) == 7
