"""What a reduced draft vocabulary leaves out of a loss, and what it does not."""

from __future__ import annotations

import pytest
import torch

from paradraft.objectives import Blocks, Objective
from tests.objectives.test_objective import sums_of


@pytest.mark.parametrize("name", ["tv", "ce_l1", "lk_alpha", "lk_lambda"])
def test_what_is_accepted_counts_the_tokens_outside_a_reduced_vocabulary(name: str) -> None:
    """Speculative sampling accepts with min(p, q) of the target's own p, not of p within the draft vocabulary."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(6, 4, generator=generator), torch.randn(6, 9, generator=generator)
    ids, to_draft = torch.tensor([1, 3, 4, 8]), torch.full((9,), -1)
    to_draft[ids] = torch.arange(4)
    rows = torch.arange(6).view(3, 2)
    blocks = Blocks(
        ids[torch.randint(4, (3, 2), generator=generator)],
        torch.ones(3, 2, dtype=torch.bool),
        torch.zeros(3, dtype=torch.long),
        teacher=teacher,
        teacher_rows=rows,
    ).reduced(ids, to_draft)
    p, within, q = teacher.softmax(-1)[:, ids], teacher[:, ids].softmax(-1), logits.softmax(-1)
    ce = -q.log().gather(-1, blocks.labels.view(6, 1))[:, 0]
    overlap, kl = torch.minimum(p, q).sum(-1), (within * (within / q).log()).sum(-1)
    share = torch.exp(-3 * overlap)
    wanted = {"tv": 1 - overlap, "ce_l1": 0.1 * ce + 1.8 * (1 - overlap), "lk_alpha": -overlap.log()}
    wanted["lk_lambda"] = share * kl + (1 - share) * (1 - overlap)
    torch.testing.assert_close(sums_of(Objective(name, "uniform", "tokens"), logits, blocks).loss, wanted[name].sum())


def test_the_own_loss_is_a_mean_over_what_is_learned() -> None:
    """Of two blocks of three, the second has its second label outside: four positions are learned, five are inside."""
    labels = torch.tensor([[0, 1, 2], [0, -1, 2]])
    valid, rows = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    blocks = Blocks(labels, valid, rows, vocabulary=torch.arange(3))
    objective = Objective("ce", "uniform", "tokens")
    terms = objective.terms(torch.zeros(6, 3), blocks, lambda labels, overlap: torch.full((6,), 7.0))
    sums = objective.sums(terms, blocks)
    assert float(sums.learned) == 4 and float(sums.own / sums.learned) == 7.0


@pytest.mark.parametrize("name", ["tv", "ce_l1", "lk_alpha", "lk_lambda"])
def test_a_target_that_is_sure_of_a_token_outside_breaks_no_gradient(name: str) -> None:
    """Its probability of all tokens inside is 0 in float32; the label is not learned, and must not spoil the others."""
    logits = torch.zeros(2, 2, requires_grad=True)
    blocks = Blocks(
        torch.tensor([[0, 3]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.zeros(1, dtype=torch.long),
        teacher=torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 300.0]]),
        teacher_rows=torch.tensor([[0, 1]]),
    ).reduced(torch.tensor([0, 1]), torch.tensor([0, 1, -1, -1]))
    loss = sums_of(Objective(name, "uniform", "tokens"), logits, blocks).loss
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[1].any()
