"""Which anchors decoding visits: a round that accepts l tokens at anchor a is followed by one at a + l + 1."""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor


def walk(accepted: Tensor, valid: Tensor, rows: Tensor, anchors: Tensor) -> tuple[int, int]:
    """Rounds and accepted tokens of a walk along the anchors of every sequence (SpecForge's walk metric, issue 880).

    accepted [N]: tokens that the block of each anchor gets right; valid [N, K]; rows, anchors [N], ascending. The walk
    begins at a sequence's first anchor; behind an anchor a that got l right comes the first one at a + l + 1 or later.
    If every position is an anchor, that is greedy decoding of this very text. The fewer there are, the nearer is the
    mean to that over all of them.
    """
    rounds = total = 0
    present = valid[:, 0]
    rights, positions = accepted[present].long().tolist(), anchors[present].tolist()
    lengths = torch.unique_consecutive(rows[present], return_counts=True)[1].tolist()
    end = 0
    for length in lengths:
        place, end = end, end + length
        while place < end:
            rounds, total = rounds + 1, total + rights[place]
            place = bisect_left(positions, positions[place] + rights[place] + 1, place, end)
    return rounds, total
