"""What is verified in a round, how it is made, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..drafters import Drafter, DraftState
from .sampling import Sampling, distributions, draw


@dataclass(frozen=True)
class Draft:
    """tokens [rows, N], of which row r drafted `lengths[r]`; the rest is padding.

    A chain, or with `parents` [rows, N] a tree: the index of each node's parent, which stands before it, -1 for the
    newest committed token. `probabilities` [rows, N, V] are what the tokens were sampled from; None: they were chosen
    without chance, each stands for a point mass.
    """

    tokens: Tensor
    lengths: Tensor
    parents: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """Numbers in [0, 1) that decide what is kept: `accept` [rows, N] for the drafted tokens, `last` [rows]."""

    accept: Tensor
    last: Tensor


@dataclass(frozen=True)
class Accepted:
    """counts [rows] of drafted tokens that are kept, `next` [rows]: the token that the target adds.

    path [rows, 1 + P]: in a tree, the kept nodes behind 0, each counted from 1; None: the first ones.
    """

    counts: Tensor
    next: Tensor
    path: Tensor | None = None


class ChainSampler:
    """Tokens from draft logits [rows, K, V], at once or step by step; `noise` [rows, N], None: every row is greedy."""

    def __init__(self, samplings: Sequence[Sampling], noise: Tensor | None) -> None:
        self.samplings, self.noise, self.step = samplings, noise, 0

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.noise is None:
            return logits.argmax(-1), None
        noise = self.noise[:, self.step : self.step + logits.shape[1]]
        self.step += logits.shape[1]
        probabilities = distributions(logits[:, : noise.shape[1]], self.samplings)
        return draw(probabilities, noise), probabilities


@dataclass(frozen=True)
class Drafting:
    """Everything that drafts: the drafter, what it remembers, and the most tokens K of a draft."""

    drafter: Drafter
    state: DraftState
    most: int

    def chain(
        self,
        slots: Sequence[int],
        anchors: Tensor,
        lengths: Sequence[int],
        samplings: Sequence[Sampling],
        noise: Tensor | None,
    ) -> Draft:
        """`lengths[r]` tokens behind the newest token of each row, in one call for all rows that draft any."""
        longest, device = max(lengths), anchors.device
        rows = [row for row, length in enumerate(lengths) if length]
        counts = torch.tensor(lengths)
        if not rows:
            return Draft(anchors.new_zeros(len(slots), 0), counts)
        sampler = ChainSampler([samplings[row] for row in rows], None if noise is None else noise[rows])
        # Masks read each other: what a row drafts must not depend on how long the others' drafts may be.
        steps = self.most if self.drafter.parallel else longest
        proposal = self.drafter.propose(self.state, [slots[row] for row in rows], anchors[rows], steps, sampler)
        tokens, probabilities = proposal.tokens[:, :longest], proposal.probabilities
        if probabilities is not None:
            probabilities = probabilities[:, :longest]
        if len(rows) < len(slots):
            index = torch.tensor(rows, device=device)
            tokens = tokens.new_zeros(len(slots), longest).index_copy(0, index, tokens)
            if probabilities is not None:
                shape = (len(slots), *probabilities.shape[1:])
                probabilities = probabilities.new_zeros(shape).index_copy(0, index, probabilities)
        return Draft(tokens, counts, None, probabilities)
