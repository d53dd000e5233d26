"""Sums and denominators: the chunked head against the plain one, and independence of how a batch is split."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from paradraft.objectives import (
    ANCHOR_WEIGHTINGS,
    DENOMINATORS,
    TOKEN_LOSSES,
    WEIGHTINGS,
    Blocks,
    Objective,
    ObjectiveSums,
)
from paradraft.objectives.chunked_head import chunked_head, unchunked_head, whole_blocks

N, K, H, V = 11, 4, 6, 9


def problem() -> tuple[Tensor, Blocks, Tensor]:
    """hidden, blocks (of four sequences, one without a valid block) with the target's opinion, head weight."""
    torch.manual_seed(3)
    rows = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3])
    valid = (torch.rand(N, K) > 0.3).long().cumprod(-1).bool()
    valid[0], valid[5], valid[6], valid[9:] = True, True, True, False
    labels, gold = torch.randint(0, V, (N, K)), torch.rand(N, K)
    anchors = torch.tensor([2, 3, 5, 9, 0, 0, 1, 3, 4, 0, 0])
    places = {"anchors": anchors, "starts": torch.tensor([2, 2, 2, 8, 0, 0, 1, 1, 1, 0, 0])}
    blocks = Blocks(labels, valid, rows, gold, torch.randn(7, V), torch.randint(0, 7, (N, K)), **places)
    return torch.randn(N, K, H), blocks, torch.randn(V, H)


def sums_of(objective: Objective, logits: Tensor, blocks: Blocks) -> ObjectiveSums:
    """Of the logits [M, V] of the valid queries."""
    return objective.sums(objective.terms(logits, blocks), blocks)


COMBINATIONS = [
    *itertools.product(["ce"], WEIGHTINGS, DENOMINATORS),
    *itertools.product(sorted(set(TOKEN_LOSSES) - {"ce"}), ["dpace", "cat", "path"], ["weights"]),
]


ANCHORS = [None, *ANCHOR_WEIGHTINGS]
CHUNKED = [*((None, *words) for words in COMBINATIONS)]
CHUNKED += itertools.product(ANCHOR_WEIGHTINGS, ["ce"], ["dpace", "decay"], DENOMINATORS)


@pytest.mark.parametrize(("anchors", "token_loss", "weighting", "denominator"), CHUNKED)
def test_chunked_head_is_exact_in_value_and_gradient(
    anchors: str | None, token_loss: str, weighting: str, denominator: str
) -> None:
    hidden, blocks, weight = problem()
    objective = Objective(token_loss, weighting, denominator, anchor_weighting=anchors)
    results: list[tuple[ObjectiveSums, Tensor, Tensor]] = []
    for chunked in (False, True):
        x, matrix = hidden.clone().requires_grad_(), weight.clone().requires_grad_()

        def head(part: Tensor, matrix: Tensor = matrix) -> Tensor:
            return part @ matrix.T

        if chunked:
            sums = chunked_head(x, blocks, head, objective, positions_per_chunk=2 * K)
        else:
            sums = unchunked_head(x, blocks, head, objective)
        sums.loss.backward()
        assert x.grad is not None and matrix.grad is not None
        results.append((sums.detached(), x.grad, matrix.grad))
    (plain, *plain_gradients), (chunks, *chunk_gradients) = results
    for a, b in zip([*plain.values(), *plain_gradients], [*chunks.values(), *chunk_gradients], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert plain.loss > 0 and plain.denominator > 0


def test_a_chunk_has_room_for_the_targets_logits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reduced vocabulary those are far more than the drafter's."""
    most = 4096
    monkeypatch.setattr(import_module("paradraft.objectives.chunked_head"), "ENTRIES_PER_CHUNK", most)
    hidden, blocks, weight = problem()
    made: list[int] = []

    def teacher_head(asked: Tensor) -> Tensor:
        made.append(len(asked))
        return asked @ torch.ones(H, 512)

    vocabulary = torch.arange(V)
    teacher = replace(blocks, teacher=torch.randn(40, H), teacher_head=teacher_head, vocabulary=vocabulary)
    teacher = replace(teacher, teacher_rows=torch.arange(N * K).view(N, K) % 40)
    chunked_head(hidden, teacher, lambda h: h @ weight.T, Objective("kl", "uniform", "tokens"))
    assert sum(made) == int(blocks.valid.sum()) and max(made) * 512 <= most


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(("token_loss", "weighting"), [("ce", "dpace"), ("ce_kd", "cat"), ("tv", "uniform")])
def test_compiled_terms_are_the_plain_ones(token_loss: str, weighting: str) -> None:
    hidden, blocks, weight = problem()
    torch._dynamo.reset()
    results: list[tuple[ObjectiveSums, Tensor]] = []
    for compiled in (False, True):
        objective = Objective(token_loss, weighting, "tokens", compiled=compiled)
        before = counters["stats"]["unique_graphs"]
        x = hidden.clone().requires_grad_()
        sums = chunked_head(x, blocks, lambda h: h @ weight.T, objective, positions_per_chunk=2 * K)
        sums.loss.backward()
        assert x.grad is not None
        results.append((sums.detached(), x.grad))
        assert (counters["stats"]["unique_graphs"] > before) == compiled
    for a, b in zip([*results[0][0].values(), results[0][1]], [*results[1][0].values(), results[1][1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_chunks_are_whole_blocks_of_few_valid_queries() -> None:
    valid = torch.arange(4)[None] < torch.tensor([4, 1, 0, 2, 4, 4, 0])[:, None]
    assert whole_blocks(valid, 5) == [slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 7)]
    assert whole_blocks(valid, 3) == [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6), slice(6, 7)]  # never inside
    assert whole_blocks(valid, 99) == [slice(0, 7)]
    assert whole_blocks(valid[:0], 5) == [slice(0, 0)]


@pytest.mark.parametrize(
    ("weighting", "denominator", "anchors"), list(itertools.product(WEIGHTINGS, DENOMINATORS, ANCHORS))
)
def test_micro_batches_of_whole_sequences_add_up(weighting: str, denominator: str, anchors: str | None) -> None:
    hidden, blocks, weight = problem()
    objective = Objective("ce", weighting, denominator, anchor_weighting=anchors)

    def gradient(parts: list[slice]) -> Tensor:
        x = hidden.clone().requires_grad_()
        denominators = torch.zeros(())
        for part in parts:
            some = blocks[part]
            local = replace(some, rows=some.rows - some.rows.min())
            sums = unchunked_head(x[part], local, lambda h: h @ weight.T, objective)
            sums.loss.backward()
            denominators += sums.denominator
        assert x.grad is not None
        return x.grad / denominators

    whole = gradient([slice(0, N)])
    split = gradient([slice(0, 5), slice(5, N)])
    torch.testing.assert_close(whole, split, rtol=1e-5, atol=1e-7)


def test_losses_against_the_target_are_those_of_torch() -> None:
    hidden, blocks, weight = problem()
    assert blocks.teacher is not None and blocks.teacher_rows is not None
    logits = hidden @ weight.T
    teacher = blocks.teacher[blocks.teacher_rows]
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks.labels.flatten(), reduction="none").view(N, K)
    kl = torch.nn.functional.kl_div(logits.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    tv = 1 - torch.minimum(logits.softmax(-1), teacher.softmax(-1)).sum(-1)
    reverse = torch.nn.functional.kl_div(teacher.log_softmax(-1), logits.softmax(-1), reduction="none").sum(-1)
    share = torch.exp(-3 * (1 - tv))
    expected = {"ce_kd": 0.1 * ce + kl, "kl": kl, "tv": tv, "reverse_kl": reverse, "ce_l1": 0.1 * ce + 1.8 * tv}
    expected |= {"lk_alpha": -(1 - tv).log(), "lk_lambda": share * kl + (1 - share) * tv}
    assert expected.keys() == TOKEN_LOSSES.keys() - {"ce"}
    for name, wanted in expected.items():
        sums = unchunked_head(hidden, blocks, lambda h: h @ weight.T, Objective(name, "uniform", "tokens"))
        torch.testing.assert_close(sums.loss, wanted[blocks.valid].sum())


def test_losses_that_need_the_target_say_so() -> None:
    hidden, blocks, weight = problem()
    bare = Blocks(blocks.labels, blocks.valid, blocks.rows)
    for objective in (Objective("ce_kd"), Objective("ce", "cat"), Objective("ce", "path")):
        assert objective.needs_distribution
        with pytest.raises(ValueError, match="needs the target's"):
            unchunked_head(hidden, bare, lambda h: h @ weight.T, objective)


def test_anchor_denominator_is_a_mean_over_anchors_then_over_sequences() -> None:
    hidden, blocks, weight = problem()
    sums = unchunked_head(hidden, blocks, lambda h: h @ weight.T, Objective("ce", "uniform", "anchors"))
    logits = (hidden @ weight.T).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, blocks.labels.flatten(), reduction="none")
    per_block = (losses.view(N, K) * blocks.valid).sum(-1)
    means = [per_block[(blocks.rows == r) & blocks.valid.any(-1)].mean() for r in (0, 1, 2)]
    torch.testing.assert_close(sums.loss / sums.denominator, torch.stack(means).mean())


def test_reached_counts_only_unbroken_runs() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, :, 1] = 1
    labels = torch.tensor([[1, 0, 1]])
    blocks = Blocks(labels, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    sums = sums_of(Objective("ce", "uniform", "tokens"), logits[0], blocks)
    assert sums.correct.tolist() == [1, 0, 1] and sums.reached.tolist() == [1, 0, 0]


def test_unknown_names_are_refused() -> None:
    for names in (("nll", "dpace", "anchors"), ("ce", "fibonacci", "anchors"), ("ce", "dpace", "blocks")):
        with pytest.raises(ValueError, match="is not one of"):
            Objective(*names)
    with pytest.raises(ValueError, match="'often' is not one of None, visits"):
        Objective(anchor_weighting="often")


def test_annealed_alpha_by_hand() -> None:
    """From 0.8 to 0.2; after a quarter of the run it is 0.65, and one label of q = 0.5 has the weight s = 0.825."""
    objective = Objective("ce", "dpace", "tokens", {"alpha": 0.8}, alpha_end=0.2)
    assert [objective.at(share).parameters["alpha"] for share in (0, 0.25, 1)] == pytest.approx([0.8, 0.65, 0.2])
    blocks = Blocks(torch.tensor([[0]]), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    sums = sums_of(objective.at(0.25), torch.zeros(1, 2), blocks)
    assert sums.weight.tolist() == pytest.approx([0.825])
    same = Objective("ce", "dpace", "tokens", {"alpha": 0.8})
    assert same.at(0.7) is same


def test_annealing_is_refused_without_an_alpha_and_outside_its_range() -> None:
    for weighting, end, message in (("decay", 0.2, "decay has no alpha"), ("dpace", 0.0, "alpha_end must be more")):
        with pytest.raises(ValueError, match=message):
            Objective("ce", weighting, alpha_end=end)


def test_a_label_outside_the_draft_vocabulary_is_a_rejected_position() -> None:
    """D-PACE by hand: nothing is learned from it on, and sums over later positions end before it."""
    ids, to_draft = torch.tensor([1, 2, 5]), torch.tensor([-1, 0, 1, -1, -1, 2])
    labels = torch.tensor([[1, 2, 4, 5], [5, 1, 2, 1]])
    blocks = Blocks(labels, torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    reduced = blocks.reduced(ids, to_draft)
    assert reduced.learned.tolist() == [[True, True, False, False], [True] * 4]
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    objective = Objective("ce", "dpace", "anchors")
    sums = sums_of(objective, logits, reduced)
    q = logits.softmax(-1).detach()[[0, 1], [0, 1]]
    s = 0.5 * q + 0.5
    first_block = sums.weight[:2] - whole_weights(logits[4:].detach())[:2]
    torch.testing.assert_close(first_block, torch.stack((s[0] + s[0] * s[1], s[0] * s[1])))
    assert sums.outside.tolist() == [0, 0, 1, 0]
    sums.loss.backward()
    assert logits.grad is not None
    assert (logits.grad[2:4] == 0).all() and (logits.grad[[0, 1, 4, 5, 6, 7]] != 0).any(-1).all()


def whole_weights(logits: torch.Tensor) -> torch.Tensor:
    """D-PACE's weights of the block of labels 2, 0, 1, 0 (draft ids), summed from their definition."""
    s = 0.5 * logits.softmax(-1)[range(4), [2, 0, 1, 0]] + 0.5
    survival = s.cumprod(0)
    return torch.stack([survival[i:].sum() for i in range(4)])


def test_kd_with_a_reduced_vocabulary_renormalises_the_target() -> None:
    ids, to_draft = torch.tensor([1, 2, 5]), torch.tensor([-1, 0, 1, -1, -1, 2])
    teacher = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    blocks = Blocks(
        torch.tensor([[1, 5]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.zeros(1, dtype=torch.long),
        teacher=teacher,
        teacher_rows=torch.tensor([[0, 1]]),
    ).reduced(ids, to_draft)
    objective = Objective("kl", "uniform", "tokens")
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    sums = sums_of(objective, logits, blocks)
    p, q = teacher[:, ids].softmax(-1), logits.softmax(-1)
    torch.testing.assert_close(sums.loss, (p * (p / q).log()).sum())
    torch.testing.assert_close(sums.left_out, (1 - teacher.softmax(-1)[:, ids].sum(-1)).sum())


def test_lk_losses_by_hand() -> None:
    """p = (.5, .5, 0), q = (.25, .25, .5): overlap .5."""
    p, q = torch.tensor([[0.5, 0.5, 1e-30]]), torch.tensor([[0.25, 0.25, 0.5]])
    label, kl, share = torch.tensor([0]), math.log(2), 0.8 * math.exp(-2 * 0.5)
    losses = {name: TOKEN_LOSSES[name].loss for name in ("lk_alpha", "lk_lambda")}
    assert losses["lk_alpha"](q.log(), label, p.log()).item() == pytest.approx(math.log(2))
    mixed = losses["lk_lambda"](q.log(), label, p.log(), lk_scale=0.8, lk_decay=2.0)
    assert mixed.item() == pytest.approx(share * kl + (1 - share) * 0.5)
    sure = torch.tensor([[1.0, 0.0, 0.0]]).log()
    assert losses["lk_alpha"](q.log(), label, sure).item() == pytest.approx(math.log(4))  # the cross entropy


def test_no_gradient_flows_through_the_share_of_lk_lambda() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    q, labels = logits.log_softmax(-1), torch.zeros(4, dtype=torch.long)
    kl, tv = (TOKEN_LOSSES[name].loss(q, labels, teacher) for name in ("kl", "tv"))
    share = torch.exp(-3 * (1 - tv)).detach()
    found = TOKEN_LOSSES["lk_lambda"].loss(q, labels, teacher, lk_scale=1.0, lk_decay=3.0)
    (mine,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad((share * kl + (1 - share) * tv).sum(), logits)
    torch.testing.assert_close(mine, theirs)


def test_path_weights_of_lk_alpha_give_the_gradient_of_the_path_loss() -> None:
    """-sum_i prod_{j<=i} o_j, differentiated through every overlap; blocks end where validity does."""
    hidden, blocks, weight = problem()
    assert blocks.teacher is not None and blocks.teacher_rows is not None
    gradients = []
    for direct in (False, True):
        x = hidden.clone().requires_grad_()
        if direct:
            overlaps = torch.minimum((x @ weight.T).softmax(-1), blocks.teacher[blocks.teacher_rows].softmax(-1)).sum(
                -1
            )
            loss = -(overlaps.where(blocks.valid, 1.0).cumprod(-1) * blocks.valid).sum()
        else:
            loss = unchunked_head(x, blocks, lambda h: h @ weight.T, Objective("lk_alpha", "path", "tokens")).loss
        gradients += torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_overlaps_are_with_the_whole_distribution_of_the_target() -> None:
    """With a reduced vocabulary half of the target's mass is out of reach, so no overlap is above one half."""
    ids, to_draft = torch.tensor([0, 1]), torch.tensor([0, 1, -1, -1])
    blocks = Blocks(
        torch.tensor([[0, 1]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.zeros(1, dtype=torch.long),
        teacher=torch.zeros(1, 4),
        teacher_rows=torch.zeros(1, 2, dtype=torch.long),
    ).reduced(ids, to_draft)
    sums = sums_of(Objective("lk_alpha", "path", "tokens"), torch.zeros(2, 2), blocks)
    assert sums.weight.tolist() == pytest.approx([0.5 + 0.25, 0.25])
    assert sums.loss.item() == pytest.approx(math.log(2))
    assert sums.left_out.item() == pytest.approx(1.0)
