"""The losslessness checks pass for what is lossless and fail for what is not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from paradraft.decoding import Sampling, acceptance
from paradraft.decoding.acceptance import ACCEPTANCE, Rule
from paradraft.decoding.draft import Accepted, Draft, Noise
from paradraft.decoding.sampling import draw
from paradraft.drafters import DFlash
from paradraft.errors import UserError
from paradraft.evaluation.lossless import check_distribution, check_exact, likely_continuations, undecided_starts
from paradraft.models import Target
from tests.conftest import BOUND, KINDS, VARIANTS, make_drafter, make_drafter_of, make_model

PROMPTS = [[1, 2, 3], [7]]


@pytest.fixture
def small() -> Iterator[tuple[Target, DFlash]]:
    """A vocabulary of 12, flat enough that drafts are accepted and rejected."""
    target = Target(make_model("qwen3", vocab_size=12, initializer_range=0.15))
    yield target, make_drafter(target, block_size=4)


def accept_too_much(right: Rule, draft: Draft, target: Tensor, noise: Noise) -> Accepted:
    """Broken on purpose: after a rejection it samples p, not the residual of p over q."""
    counts = right(draft, target, noise).counts
    return Accepted(counts, draw(target[torch.arange(len(counts)), counts], noise.last))


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.8, top_k=5, top_p=0.9)])
def test_sampled_decoding_has_the_targets_distribution(small: tuple[Target, DFlash], sampling: Sampling) -> None:
    target, drafter = small
    result = check_distribution(target, drafter, PROMPTS, 200_000, sampling, batch_size=5000)
    assert result.passed, result
    assert result.cells > 50


@pytest.mark.parametrize(("rule", "tree"), [("block", None), ("tree_residual", 6), ("tree", 6)])
def test_every_rule_is_lossless_in_the_engine(small: tuple[Target, DFlash], rule: str, tree: int | None) -> None:
    """tests/decoding/test_joint.py has the rules themselves."""
    target, drafter = small
    sampling = Sampling(1.0)
    result = check_distribution(target, drafter, PROMPTS, 20_000, sampling, batch_size=5000, acceptance=rule, tree=tree)
    assert result.passed and result.cells > 50, result


@pytest.mark.parametrize(("kind", "own"), [*((kind, {}) for kind in KINDS), *VARIANTS])
def test_every_drafter_is_lossless_as_a_distribution(
    small: tuple[Target, DFlash], kind: str, own: dict[str, Any]
) -> None:
    target, _ = small
    own = own | ({"selector_top_k": 3} if kind.startswith("dflash2") else {})
    drafter = make_drafter_of(kind, target, draft_length=3, **own)
    for mode in drafter.modes:
        drafter.set_mode(mode)
        samples = 20_000 if kind in BOUND else 60_000
        result = check_distribution(target, drafter, PROMPTS, samples, Sampling(1.0), batch_size=5000)
        assert result.passed and result.cells > 50, result


def test_a_broken_acceptance_rule_is_rejected(small: tuple[Target, DFlash], monkeypatch: pytest.MonkeyPatch) -> None:
    target, drafter = small
    broken = partial(accept_too_much, ACCEPTANCE["chain"])
    monkeypatch.setitem(ACCEPTANCE, "chain", broken)
    result = check_distribution(target, drafter, PROMPTS, 200_000, Sampling(1.0), batch_size=5000)
    assert not result.passed, result


def test_a_rule_broken_only_behind_the_first_draft_is_rejected(
    small: tuple[Target, DFlash], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, drafter = small
    right = ACCEPTANCE["chain"]

    def keeps_all_behind_the_first(draft: Draft, target: Tensor, noise: Noise) -> Accepted:
        found = right(draft, target, noise)
        return Accepted(torch.where(found.counts > 0, draft.lengths, 0), found.next)

    monkeypatch.setitem(ACCEPTANCE, "chain", keeps_all_behind_the_first)
    result = check_distribution(target, drafter, PROMPTS, 40_000, Sampling(1.0), batch_size=5000)
    assert not result.passed, result


def test_too_few_samples_are_no_pass(small: tuple[Target, DFlash]) -> None:
    target, drafter = small
    for undecided in (Sampling(5.0), Sampling(0.001)):  # too undecided for so few samples, and quite sure
        with pytest.raises(UserError, match="test nothing here"):
            check_distribution(target, drafter, PROMPTS, 100, undecided)


def test_the_test_begins_where_the_target_is_least_sure(small: tuple[Target, DFlash]) -> None:
    target, _ = small
    sampling = Sampling(0.3)
    for prompt, start in zip(PROMPTS, undecided_starts(target, PROMPTS, sampling, 0, tokens=20), strict=True):
        assert start[: len(prompt)] == prompt and len(start) < len(prompt) + 20
        there = likely_continuations(target, start, 1, sampling, smallest=0.0)
        before = likely_continuations(target, prompt, 1, sampling, smallest=0.0)
        assert max(there.values()) <= max(before.values())


def test_likely_continuations_are_exact_probabilities(small: tuple[Target, DFlash]) -> None:
    target, _ = small
    every = likely_continuations(target, [1, 2], 2, Sampling(1.0), smallest=0.0)
    assert len(every) == 144
    assert abs(sum(every.values()) - 1) < 1e-5
    likely = likely_continuations(target, [1, 2], 2, Sampling(1.0), smallest=0.01)
    assert likely == pytest.approx({k: v for k, v in every.items() if v >= 0.01}, rel=1e-5)


def test_exact_check_passes_and_fails(small: tuple[Target, DFlash], monkeypatch: pytest.MonkeyPatch) -> None:
    target, drafter = small
    assert check_exact(target, drafter, PROMPTS, 16).passed

    monkeypatch.setattr(acceptance, "follow", lambda draft, choices: Accepted(draft.lengths, choices[:, -1]))
    result = check_exact(target, drafter, PROMPTS, 16)
    assert not result.passed
    assert any(d.gap > 1e-3 and not d.tie for d in result.divergences)


def test_a_check_of_nothing_is_refused(small: tuple[Target, DFlash], monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` drafts nothing where it does not pay; plain decoding beside itself proves nothing."""
    target, drafter = small
    monkeypatch.setattr("paradraft.decoding.length.Adaptive.choose", lambda self, *rest: [0] * len(rest[0]))
    with pytest.raises(UserError, match="nothing was drafted"):
        check_exact(target, drafter, PROMPTS, 16, draft_length="auto")
    with pytest.raises(UserError, match="nothing was drafted"):
        check_distribution(target, drafter, PROMPTS, 2000, Sampling(1.0), draft_length="auto", batch_size=500)


def test_auto_is_checked_one_text_at_a_time(small: tuple[Target, DFlash], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch it drafts less."""
    target, drafter = small
    monkeypatch.setattr("paradraft.decoding.length.Adaptive.choose", lambda self, rows, *rest: [1] * len(rows))
    together: list[int] = []
    assert check_exact(target, drafter, PROMPTS, 16, draft_length="auto", advance=together.append).passed
    assert together == [1, 1]


def test_a_divergence_at_equal_logits_is_a_tie(small: tuple[Target, DFlash]) -> None:
    from paradraft.evaluation.lossless import examine_divergence

    target, _ = small
    ids = torch.tensor([[1, 2, 3]])
    logits = target.logits(ids, torch.zeros_like(ids))[0, -1]
    best, second = logits.topk(2).indices.tolist()
    weight: Any = target.output_embedding.weight
    with torch.no_grad():  # two tokens with the same embedding have the same logit
        weight[second] = weight[best]
    assert examine_divergence(target, 0, [1, 2, 3], [best], [second]).tie
    third = next(t for t in range(12) if t not in (best, second))
    assert not examine_divergence(target, 0, [1, 2, 3], [best], [third]).tie
    assert not examine_divergence(target, 0, [1, 2, 3], [best], [best, third]).tie


def test_the_start_of_an_answer_leaves_room_for_the_test(small: tuple[Target, DFlash]) -> None:
    target, _ = small
    long = [1] * (target.context_length - 9)
    (start,) = undecided_starts(target, [long], Sampling(1.0), 7)
    assert len(start) + 7 <= target.context_length
