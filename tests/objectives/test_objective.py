"""Sums and denominators: the chunked head against the plain one, and independence of how a batch is split."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from paradraft.objectives import DENOMINATORS, WEIGHTINGS, Objective, ObjectiveSums
from paradraft.objectives.chunked_head import chunked_head, unchunked_head

N, K, H, V = 11, 4, 6, 9


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden, labels, valid, rows (of four sequences, one without a valid block), head weight."""
    torch.manual_seed(3)
    rows = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3])
    valid = (torch.rand(N, K) > 0.3).long().cumprod(-1).bool()
    valid[0], valid[5], valid[6], valid[9:] = True, True, True, False
    return torch.randn(N, K, H), torch.randint(0, V, (N, K)), valid, rows, torch.randn(V, H)


@pytest.mark.parametrize(("weighting", "denominator"), list(itertools.product(WEIGHTINGS, DENOMINATORS)))
def test_chunked_head_is_exact_in_value_and_gradient(weighting: str, denominator: str) -> None:
    hidden, labels, valid, rows, weight = problem()
    objective = Objective("ce", weighting, denominator)
    results: list[tuple[ObjectiveSums, Tensor, Tensor]] = []
    for chunked in (False, True):
        x, matrix = hidden.clone().requires_grad_(), weight.clone().requires_grad_()

        def head(part: Tensor, matrix: Tensor = matrix) -> Tensor:
            return part @ matrix.T

        if chunked:
            sums = chunked_head(x, labels, valid, rows, head, objective, positions_per_chunk=3 * K)
        else:
            sums = unchunked_head(x, labels, valid, rows, head, objective)
        sums.loss.backward()
        assert x.grad is not None and matrix.grad is not None
        results.append((sums.detached(), x.grad, matrix.grad))
    (plain, *plain_gradients), (chunks, *chunk_gradients) = results
    for a, b in zip([*plain.values(), *plain_gradients], [*chunks.values(), *chunk_gradients], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert plain.loss > 0 and plain.denominator > 0


@pytest.mark.parametrize(("weighting", "denominator"), list(itertools.product(WEIGHTINGS, DENOMINATORS)))
def test_micro_batches_of_whole_sequences_add_up(weighting: str, denominator: str) -> None:
    hidden, labels, valid, rows, weight = problem()
    objective = Objective("ce", weighting, denominator)

    def gradient(parts: list[Tensor]) -> Tensor:
        x = hidden.clone().requires_grad_()
        denominators = torch.zeros(())
        for part in parts:
            local = rows[part] - rows[part].min()
            sums = unchunked_head(x[part], labels[part], valid[part], local, lambda h: h @ weight.T, objective)
            sums.loss.backward()
            denominators += sums.denominator
        assert x.grad is not None
        return x.grad / denominators

    whole = gradient([torch.arange(N)])
    split = gradient([(rows == 0).nonzero().flatten(), (rows > 0).nonzero().flatten()])
    torch.testing.assert_close(whole, split, rtol=1e-5, atol=1e-7)


def test_anchor_denominator_is_a_mean_over_anchors_then_over_sequences() -> None:
    hidden, labels, valid, rows, weight = problem()
    sums = unchunked_head(hidden, labels, valid, rows, lambda h: h @ weight.T, Objective("ce", "uniform", "anchors"))
    losses = torch.nn.functional.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none")
    per_block = (losses.view(N, K) * valid).sum(-1)
    means = [per_block[(rows == r) & valid.any(-1)].mean() for r in (0, 1, 2)]
    torch.testing.assert_close(sums.loss / sums.denominator, torch.stack(means).mean())


def test_reached_counts_only_unbroken_runs() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, :, 1] = 1
    labels = torch.tensor([[1, 0, 1]])
    ones = torch.ones(1)
    sums = Objective("ce", "uniform", "tokens").sums(logits, labels, torch.ones(1, 3, dtype=torch.bool), ones, ones)
    assert sums.correct.tolist() == [1, 0, 1] and sums.reached.tolist() == [1, 0, 0]


def test_unknown_names_are_refused() -> None:
    for names in (("nll", "dpace", "anchors"), ("ce", "fibonacci", "anchors"), ("ce", "dpace", "blocks")):
        with pytest.raises(ValueError, match="is not one of"):
            Objective(*names)
