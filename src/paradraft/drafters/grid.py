"""The (anchor, step) grid that every drafter is trained on.

A training query is a pair (anchor a, step k): predict token a + k, seeing the tokens up to and including a and
the target's features of positions before a. Steps are 1-based; column k - 1 of an `[N, K]` array holds step k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PADDING = -1  # document id of padding
COD_STREAM = 0x5EED  # keeps COD's draws apart from those of the anchors, which share the row's seed


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens, [B, S] each; loss_mask: the target wrote this token; document_ids: -1 is padding."""

    input_ids: Tensor
    loss_mask: Tensor
    document_ids: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(t.to(device) for t in (self.input_ids, self.loss_mask, self.document_ids)))


@dataclass(frozen=True)
class Grid:
    """N = B * A query blocks of K steps, A for each row of `batch`, row by row.

    rows, anchors [N]: row and position of each block's anchor. labels, valid [N, K]. A row with fewer than A anchors
    ends with unused blocks: anchor 0, nothing valid. keep_features [B]: rows that see the target's features; None: all.
    """

    rows: Tensor
    anchors: Tensor
    labels: Tensor
    valid: Tensor
    batch: Batch
    keep_features: Tensor | None = None

    @property
    def anchor_tokens(self) -> Tensor:
        return self.batch.input_ids[self.rows, self.anchors]

    @property
    def answer_starts(self) -> Tensor:
        """[N]: the first eligible position of the answer that each anchor stands in."""
        eligible = eligible_anchors(self.batch)
        first = eligible.clone()
        first[:, 1:] &= ~eligible[:, :-1]
        positions = torch.arange(eligible.shape[1], device=eligible.device)
        return (positions * first).cummax(dim=1).values[self.rows, self.anchors]


def eligible_anchors(batch: Batch) -> Tensor:
    """[B, S]: positions where the target wrote the token and the next one, both of one document.

    Positions near the end of a text are included, although the end of their block is not valid; else short answers
    would never be learned.
    """
    supervised, documents = batch.loss_mask.bool(), batch.document_ids
    eligible = torch.zeros_like(supervised)
    eligible[:, :-1] = supervised[:, :-1] & supervised[:, 1:] & (documents[:, :-1] == documents[:, 1:])
    return eligible & (documents != PADDING)


def sample_anchors(eligible: Tensor, anchors: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Up to `anchors` eligible positions of each row, without replacement: sorted positions, and which exist; [B, A].

    Row r draws from its own generator, seeded with seeds[r], and only for its eligible positions: its anchors
    depend neither on the rows beside it nor on the padding.
    """
    keys = torch.full(eligible.shape, -1.0)
    for row, (mask, seed) in enumerate(zip(eligible.cpu(), seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        keys[row, mask] = torch.rand(int(mask.sum()), generator=generator, dtype=torch.float32)
    keys = keys.to(eligible.device)
    most = max(1, int(eligible.sum(1).max()))  # no more columns than the fullest row needs
    chosen = keys.topk(min(anchors, most), dim=1)
    present = chosen.values >= 0
    positions, order = torch.where(present, chosen.indices, eligible.shape[1]).sort(dim=1)
    present = present.gather(1, order)
    return torch.where(present, positions, 0), present


def anchor_grid(batch: Batch, steps: int, anchors: int, seeds: Sequence[int]) -> Grid:
    """Sample anchors and look up their labels.

    A step is valid if the target wrote its token and those of all steps before it, in the anchor's document: a draft
    ends where the target's own text ends, as in decoding.
    """
    positions, present = sample_anchors(eligible_anchors(batch), anchors, seeds)
    length = batch.input_ids.shape[1]
    targets = positions[..., None] + torch.arange(1, steps + 1, device=positions.device)  # [B, A, K]
    inside = targets < length
    index = targets.clamp(max=length - 1).flatten(1)

    def look_up(values: Tensor) -> Tensor:
        return values.gather(1, index).view(targets.shape)

    same_document = look_up(batch.document_ids) == batch.document_ids.gather(1, positions)[..., None]
    valid = inside & same_document & look_up(batch.loss_mask.bool()) & present[..., None]
    valid = valid.long().cumprod(-1).bool()
    rows = torch.arange(len(positions), device=positions.device).repeat_interleave(positions.shape[1])
    return Grid(
        rows=rows,
        anchors=positions.flatten(),
        labels=look_up(batch.input_ids).flatten(0, 1),
        valid=valid.flatten(0, 1),
        batch=batch,
    )


def conditional_drop(grid: Grid, ratio: float, least: float, seeds: Sequence[int]) -> Grid:
    """COD (PARD, arXiv 2504.18583): step i + 1 stays for a share max(ratio^i, least) of each row's anchors.

    An anchor that loses a step loses all later ones, so every anchor gets a random draft length. In expectation the
    share is exact. D-PACE's sums over later positions end where the steps were dropped.
    """
    rows, steps = len(grid.batch.input_ids), grid.labels.shape[1]
    present = grid.valid[:, 0].view(rows, -1).cpu()
    shares = torch.tensor([max(ratio**i, least) for i in range(steps)], dtype=torch.float64)
    place = torch.zeros(present.shape, dtype=torch.float64)  # in float32 the last place may round up to 1
    for row, seed in enumerate(seeds):
        count = int(present[row].sum())
        generator = torch.Generator().manual_seed(seed ^ COD_STREAM)
        ranks = torch.randperm(count, generator=generator) + torch.rand(1, generator=generator, dtype=torch.float64)
        place[row, present[row]] = ranks / max(1, count)
    kept = place.flatten()[:, None] < shares
    kept[:, 0] = True
    return replace(grid, valid=grid.valid & kept.to(grid.valid.device))


def before_anchors(context: Tensor, anchors: Tensor, document_ids: Tensor) -> Tensor:
    """Of context [rows, S, H] the position before each anchor [rows, A]; zero where a document starts there."""
    before = (anchors - 1).clamp(min=0)
    same = (anchors > 0) & (document_ids.gather(1, before) == document_ids.gather(1, anchors))
    found = context.gather(1, before[..., None].expand(-1, -1, context.shape[-1]))
    return found * same[..., None].to(found.dtype)
