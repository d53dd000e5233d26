"""Which anchors decoding visits: a round that accepts l tokens at anchor a is followed by one at a + l + 1.

A weighting of anchors maps confidences [n, K] and validity [n, K] of all valid blocks of one sequence, with their
anchors [n], ascending, and `starts` [n] (where the answer begins that the anchor stands in), to weights [n] without a
gradient, of which only the ratios count. A new one is one function and one entry of ANCHOR_WEIGHTINGS.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

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


def visits(confidence: Tensor, valid: Tensor, anchors: Tensor, starts: Tensor) -> Tensor:
    """v_t: the chance that decoding of this very text stands at t, if step k of a draft is accepted with chance q_k.

    Every token t behind the first of an answer is decided in one round. Its anchor a = t - k accepts k - 1 drafts or
    more, with chance c_{a,k-1} = q_{a,1} ... q_{a,k-1}, and t is a new anchor if it is then rejected (q_{a,K+1} = 0):

        v_t = sum_k v_{t-k} c_{t-k,k-1} (1 - q_{t-k,k}),      sum_k v_{t-k} c_{t-k,k-1} = 1,      v = 1 at a start.

    Over a sample of the anchors a part of the second sum is missing. In its place stands the chance of a new anchor
    anywhere, 1 / (1 + mean accepted length), of the whole sequence. So v is exact where every position is an anchor and
    no step was dropped, and tends to a constant where other anchors are far.
    """
    count, steps = confidence.shape
    q = torch.where(valid, confidence.detach().float(), 1.0)
    survival = q.cumprod(-1)
    mean_length = ((survival * valid).sum(0) / valid.sum(0).clamp(min=1)).sum()
    anywhere = torch.where(anchors == starts, 1.0, 1 / (1 + mean_length))
    reached = torch.cat((torch.ones_like(q[:, :1]), survival), dim=-1)  # column k - 1: the round tries token a + k
    rejected = torch.cat((1 - q, torch.ones_like(q[:, :1])), dim=-1)
    known = torch.cat((valid, valid[:, -1:]), dim=-1)
    tokens = anchors[:, None] + torch.arange(1, steps + 2, device=anchors.device)
    there = torch.searchsorted(anchors, tokens).clamp(max=count - 1)
    known = known & (anchors[there] == tokens) & (starts[there] == starts[:, None])
    before, column = known.nonzero(as_tuple=True)
    after = there[before, column]
    # v_t = anywhere + sum over the known anchors before t of v_a c (rejected - anywhere): a triangular system
    system = torch.eye(count, device=q.device)
    system[after, before] = -reached[before, column] * (rejected[before, column] - anywhere[after])
    return torch.linalg.solve_triangular(system, anywhere[:, None], upper=False)[:, 0].clamp(0, 1)


ANCHOR_WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {"visits": visits}
