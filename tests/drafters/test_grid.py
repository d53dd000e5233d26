"""Anchors, labels and validity of the training grid."""

from __future__ import annotations

import torch

from paradraft.drafters.grid import Batch, anchor_grid, conditional_drop, eligible_anchors


def batch_of(masks: list[str], documents: list[str] | None = None) -> Batch:
    """Masks as strings of 0 and 1; token at position p of row r is 100 r + p."""
    mask = torch.tensor([[c == "1" for c in row] for row in masks])
    ids = torch.arange(mask.shape[1]) + 100 * torch.arange(len(masks))[:, None]
    rows = documents or ["0" * mask.shape[1]] * len(masks)
    document_ids = torch.tensor([[-1 if c == "." else int(c) for c in row] for row in rows])
    return Batch(ids, mask, document_ids)


def test_eligible_anchors_have_a_supervised_token_and_successor() -> None:
    batch = batch_of(["0011100110", "1111111100"], ["0000000000", "0001111..."])
    eligible = eligible_anchors(batch)
    assert eligible[0].nonzero().flatten().tolist() == [2, 3, 7]
    assert eligible[1].nonzero().flatten().tolist() == [0, 1, 3, 4, 5]


def test_labels_and_validity() -> None:
    grid = anchor_grid(batch_of(["0011110111"]), steps=3, anchors=20, seeds=[0])
    found = {a: (grid.labels[i].tolist(), grid.valid[i].tolist()) for i, a in enumerate(grid.anchors.tolist())}
    assert 0 not in found  # no slot is left over
    assert set(found) == {2, 3, 4, 7, 8}
    assert found[2] == ([3, 4, 5], [True, True, True])
    assert found[3][1] == [True, True, False]  # stops at the end of the answer ...
    assert found[4][1] == [True, False, False]  # ... and does not start again behind the gap
    assert found[8] == ([9, 9, 9], [True, False, False])  # beyond the sequence


def test_every_valid_label_is_the_token_that_many_steps_on() -> None:
    batch = batch_of(["1" * 30, "0" * 10 + "1" * 20])
    grid = anchor_grid(batch, steps=5, anchors=8, seeds=[1, 2])
    assert len(grid.rows) == 16
    for n in range(16):
        row, anchor = int(grid.rows[n]), int(grid.anchors[n])
        assert grid.anchor_tokens[n] == batch.input_ids[row, anchor]
        for k in range(5):
            if grid.valid[n, k]:
                assert grid.labels[n, k] == batch.input_ids[row, anchor + k + 1]


def test_documents_end_blocks() -> None:
    grid = anchor_grid(batch_of(["111111"], ["000111"]), steps=2, anchors=6, seeds=[0])
    found = dict(zip(grid.anchors.tolist(), grid.valid.tolist(), strict=True))
    assert found[1] == [True, False] and 2 not in found and found[3] == [True, True]


def test_anchors_are_distinct_and_depend_only_on_their_own_row() -> None:
    long = batch_of(["0" * 5 + "1" * 40 + "0" * 15, "1" * 60], ["0" * 45 + "." * 15, "0" * 60])
    short = batch_of(["0" * 5 + "1" * 40], ["0" * 45])
    both = anchor_grid(long, 3, 16, seeds=[7, 8])
    alone = anchor_grid(short, 3, 16, seeds=[7])
    assert torch.equal(both.anchors[:16], alone.anchors)
    assert len(set(both.anchors[:16].tolist())) == 16
    other = anchor_grid(short, 3, 16, seeds=[9])
    assert not torch.equal(other.anchors, alone.anchors)


def test_anchors_cover_all_eligible_positions_evenly() -> None:
    batch = batch_of(["1" * 21])
    counts = torch.zeros(21)
    for seed in range(2000):
        counts[anchor_grid(batch, 1, 5, seeds=[seed]).anchors] += 1
    assert counts[20] == 0  # no next token
    assert (counts[:20] - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_answer_starts() -> None:
    """Two answers in a text; two texts in a row, without anything unsupervised between them."""
    grid = anchor_grid(batch_of(["0011100111", "1111111000"], ["0" * 10, "0001111..."]), 1, 9, seeds=[1, 2])
    used = grid.valid[:, 0]
    assert grid.anchors[used].tolist() == [2, 3, 7, 8, 0, 1, 3, 4, 5]
    assert grid.answer_starts[used].tolist() == [2, 2, 7, 7, 0, 0, 3, 3, 3]


def test_conditional_drop_is_nested_and_keeps_its_shares() -> None:
    batch = batch_of(["1" * 61, "0" * 20 + "1" * 41])
    kept = torch.zeros(8)
    for seed in range(300):
        grid = anchor_grid(batch, 8, 61, seeds=[seed, seed + 1])
        cut = conditional_drop(grid, 0.7, 0.2, seeds=[seed, seed + 1])
        assert torch.equal(cut.valid[:, 0], grid.valid[:, 0])  # step 1 always stays
        assert not (cut.valid & ~grid.valid).any()  # nothing beyond the text comes back: no wrap around its end
        assert (cut.valid.long().diff(dim=1) <= 0).all()  # nested
        whole = torch.arange(60) < 60 - 7  # anchors of row 0 with all their steps in the text
        kept += cut.valid[:60][whole].float().mean(0)
    wanted = torch.tensor([max(0.7**i, 0.2) for i in range(8)])
    torch.testing.assert_close(kept / 300, wanted, rtol=0, atol=0.01)


def test_conditional_drop_draws_for_each_row_alone() -> None:
    two, one = batch_of(["1" * 30, "1" * 30]), batch_of(["1" * 30])
    both = conditional_drop(anchor_grid(two, 6, 30, [5, 6]), 0.5, 0.1, [5, 6])
    alone = conditional_drop(anchor_grid(one, 6, 30, [6]), 0.5, 0.1, [6])
    assert torch.equal(both.valid[29:], alone.valid)
    assert not torch.equal(both.valid[:29], both.valid[29:])
