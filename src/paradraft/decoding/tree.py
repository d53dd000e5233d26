"""Trees of drafts: which tokens to verify together, and which path through them is kept.

A drafter that drafts in one pass gives one distribution for each step, whatever stands before it. A node is a choice of
tokens for the first steps; its probability is the product of theirs. If the drafter is right about the probabilities,
the expected number of kept tokens is the sum over the nodes, so the best tree has the likeliest ones (DDTree,
arXiv 2604.12989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

import torch
from torch import Tensor

FEW = 8  # rows up to which a heap each is faster than tensors for all


@dataclass(frozen=True)
class Tree:
    """Nodes [rows, N], likeliest first, so that parents stand before their children.

    tokens: ids of the draft vocabulary. parents: index of the parent among the nodes, -1: the newest committed token.
    scores: logarithms of the probabilities that the drafter gives the nodes; minus infinity for padding.
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor


def tree_size(nodes: int, depth: int, vocabulary: int) -> int:
    """How many of `nodes` there are if no path is longer than `depth`."""
    size, level = 0, 1
    for _ in range(depth):
        level *= vocabulary
        size += level
        if size >= nodes:
            return nodes
    return size


def best_tree(log_probabilities: Tensor, depths: Sequence[int], nodes: int) -> Tree:
    """The `nodes` likeliest paths of log_probabilities [rows, K, V], in row r of at most depths[r] steps.

    Where a row has fewer paths (see `tree_size`), what stands behind them is padding.

    Popped from a heap of candidates, where a node adds its next sibling and its own likeliest child. Many rows, or rows
    on a GPU, go level by level instead: of the nodes of a step only the best `nodes` can be in the tree, and number m
    of the children of the i-th best node only if (i + 1)(m + 1) nodes have room: so many are at least as likely.
    """
    rows, steps, vocabulary = log_probabilities.shape
    device = log_probabilities.device
    values, tokens = log_probabilities.topk(min(nodes, vocabulary), dim=-1)
    if rows <= FEW and device.type == "cpu":
        grown = [popped(*row, nodes) for row in zip(values.tolist(), tokens.tolist(), depths, strict=True)]
        return Tree(*(torch.tensor(part) for part in zip(*grown, strict=True)))
    allowed = torch.arange(steps, device=device) < torch.tensor(depths, device=device)[:, None]
    values = values.clamp(max=0).masked_fill(~allowed[..., None], float("-inf"))
    scores, begin, parents_from = values.new_zeros(rows, 1), 0, -1
    levels: list[Level] = []
    for step in range(min(steps, nodes)):
        parent, rank = candidates(scores.shape[1], values.shape[2], nodes - step, device)
        scores, order = (scores[:, parent] + values[:, step, rank]).sort(dim=-1, descending=True, stable=True)
        scores, order = scores[:, : nodes - step], order[:, : nodes - step]
        levels.append((scores, tokens[:, step].gather(1, rank[order]), parents_from + parent[order]))
        begin, parents_from = begin + scores.shape[1], begin
    return likeliest(levels, nodes)


def popped(
    values: list[list[float]], tokens: list[list[int]], depth: int, nodes: int
) -> tuple[list[int], list[int], list[float]]:
    """Tokens, parents and scores of one row's best tree, from a heap; values and tokens [K][W] from the best on."""
    found: list[tuple[int, int, float]] = []
    candidates = [(-values[0][0], 0, -1, 0, 0.0)] if depth else []  # minus score, step, parent, rank, parent's score
    while candidates and len(found) < nodes:
        score, step, parent, rank, before = heappop(candidates)
        found.append((tokens[step][rank], parent, -score))
        if rank + 1 < len(values[step]):
            heappush(candidates, (-before - values[step][rank + 1], step, parent, rank + 1, before))
        if step + 1 < depth:
            heappush(candidates, (score - values[step + 1][0], step + 1, len(found) - 1, 0, -score))
    found += [(0, -1, float("-inf"))] * (nodes - len(found))
    chosen, parents, scores = zip(*found, strict=True)
    return list(chosen), list(parents), list(scores)


Level = tuple[Tensor, Tensor, Tensor]
"""Scores, tokens and parents [rows, W] of the nodes of one step; parents as places among the nodes of all levels."""


def likeliest(levels: Sequence[Level], nodes: int) -> Tree:
    """The tree of the best `nodes` of all levels."""
    scores, tokens, parents = (torch.cat(part, dim=1) for part in zip(*levels, strict=True))
    # Stable: of equal scores the parent's comes first.
    chosen = scores.argsort(dim=-1, descending=True, stable=True)[:, :nodes]
    numbers = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
    number_of = torch.zeros_like(parents).scatter(1, chosen, numbers)
    parents = parents.gather(1, chosen)
    parents = torch.where(parents < 0, -1, number_of.gather(1, parents.clamp(min=0)))
    return Tree(tokens.gather(1, chosen), parents, scores.gather(1, chosen))


class Growth:
    """The best trees of a drafter whose distributions depend on the path, grown level by level.

    Exact: a node is at most as likely as its parent, so of a level no node behind the best `nodes` can be in the tree.
    """

    def __init__(self, depths: Sequence[int], nodes: int) -> None:
        self.depths, self.nodes = torch.tensor(depths), nodes
        self.levels: list[Level] = []

    def grow(self, log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The level's tokens [rows, W], and which node of the level before each of them follows, [rows, W].

        log_probabilities [rows, P, V]: behind each of the P nodes of the level before, at first behind the root.
        """
        rows, step = len(log_probabilities), len(self.levels)
        values, tokens = log_probabilities.topk(min(self.nodes, log_probabilities.shape[-1]), dim=-1)
        before = self.levels[-1][0] if self.levels else values.new_zeros(rows, 1)
        allowed = (self.depths > step).to(values.device)
        reached = (before[..., None] + values.clamp(max=0)).flatten(1).masked_fill(~allowed[:, None], float("-inf"))
        scores, order = reached.sort(dim=-1, descending=True, stable=True)
        scores, order = scores[:, : self.nodes - step], order[:, : self.nodes - step]
        parent, token = order // values.shape[-1], tokens.flatten(1).gather(1, order)
        begin = sum(level[0].shape[1] for level in self.levels[:-1]) if self.levels else -1
        self.levels.append((scores, token, begin + parent))
        return token, parent

    @property
    def tree(self) -> Tree:
        return likeliest(self.levels, self.nodes)


@lru_cache(maxsize=4096)  # the same in every round
def candidates(parents: int, ranks: int, room: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(parent i, rank m) of the children that may be among the `room` best, parents and ranks from the best on."""
    pairs = [(i, m) for i in range(min(parents, room)) for m in range(min(ranks, room // (i + 1)))]
    parent, rank = torch.tensor(pairs, device=device).T
    return parent, rank


def depths_of(parents: Tensor) -> Tensor:
    """Steps behind the newest committed token, [rows, 1 + N]: 0 for itself, then of nodes with parents [rows, N]."""
    up = behind_root(parents)
    depth = torch.ones_like(up)
    depth[:, 0] = 0
    for _ in range(parents.shape[1].bit_length()):
        depth, up = depth + depth.gather(1, up), up.gather(1, up)
    return depth


def kept_path(parents: Tensor, agreed: Tensor) -> tuple[Tensor, Tensor]:
    """Which nodes agree [rows, N] together with all of their ancestors: how many [rows], and the path [rows, 1 + N].

    Of siblings at most one may agree. The path begins with the newest committed token, 0, and counts nodes from 1; what
    stands behind the kept nodes means nothing.
    """
    up = behind_root(parents)
    kept = torch.cat((agreed.new_ones(len(agreed), 1), agreed), dim=1)
    for _ in range(parents.shape[1].bit_length()):  # asks twice as many ancestors each time
        kept, up = kept & kept.gather(1, up), up.gather(1, up)
    return kept.sum(-1) - 1, (~kept).long().argsort(dim=1, stable=True)


def behind_root(parents: Tensor) -> Tensor:
    """Parents [rows, 1 + N] if the newest committed token is number 0 and its own parent."""
    return torch.cat((parents.new_zeros(len(parents), 1), parents + 1), dim=1)
