"""What is verified in a round, how it is made, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..drafters import Drafter, DraftState
from .sampling import Sampling, distributions, draw

LATER = 64  # tokens of a row that a drafter may not have observed yet


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


class Deferred:
    """Rounds without drafts, one token a row, which the drafter observes together: one by one they cost too much.

    Nothing is copied before that; `first` says from which of the rounds on a slot belongs to its present sequence.
    """

    def __init__(self) -> None:
        self.rounds: list[tuple[list[int], Tensor, Tensor]] = []
        self.first: dict[int, int] = {}

    def add(self, slots: Sequence[int], features: Tensor, tokens: Tensor) -> None:
        self.rounds.append((list(slots), features, tokens))

    def forget(self, slots: Sequence[int]) -> None:
        """Other sequences come into these slots."""
        for slot in slots if self.rounds else ():
            self.first[slot] = len(self.rounds)

    def take(self) -> tuple[list[int], Tensor, Tensor, Tensor] | None:
        """Slots, features [rows, T, F], tokens [rows, T] and how many of them count [rows], as `observe` takes them."""
        found: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for number, (slots, features, tokens) in enumerate(self.rounds):
            for row, slot in enumerate(slots):
                if number >= self.first.get(slot, 0):
                    found.setdefault(slot, []).append((features[row], tokens[row]))
        self.rounds, self.first = [], {}
        if not found:
            return None
        features = pad_sequence([torch.cat([f for f, _ in own]) for own in found.values()], batch_first=True)
        tokens = pad_sequence([torch.cat([t for _, t in own]) for own in found.values()], batch_first=True)
        return list(found), features, tokens, torch.tensor([len(own) for own in found.values()])


class Drafting:
    """Everything that drafts: the drafter and what it remembers of `rows` sequences of at most `capacity` tokens.

    most: tokens that a parallel drafter drafts in any case; None: as many as the longest draft of the round needs.
    """

    def __init__(self, drafter: Drafter, rows: int, capacity: int, most: int | None) -> None:
        self.drafter, self.most = drafter, most
        self.state: DraftState = drafter.start(rows, capacity + LATER)  # what is observed late is ragged
        self.deferred = Deferred()

    def observe(self, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor) -> None:
        """As `Drafter.observe`; single tokens, of rounds that drafted nothing, may wait."""
        if tokens.shape[1] == 1:
            self.deferred.add(slots, features, tokens)
            if len(self.deferred.rounds) < LATER:
                return
            self.catch_up()
        else:
            self.catch_up()
            self.drafter.observe(self.state, slots, features, tokens, counts)

    def catch_up(self) -> None:
        """Observe all that waits."""
        waiting = self.deferred.take()
        if waiting is not None:
            self.drafter.observe(self.state, *waiting)

    def release(self, slots: Sequence[int]) -> None:
        self.state.release(slots)
        self.deferred.forget(slots)

    def copy(self, source: int, slots: Sequence[int]) -> None:
        """Let `slots` go on from where `source` is; nothing of it may wait."""
        self.state.copy(source, slots)

    def grow(self, rows: int, capacity: int) -> None:
        self.state.grow(rows, capacity + LATER)

    def chain(
        self,
        slots: Sequence[int],
        anchors: Tensor,
        lengths: Sequence[int],
        samplings: Sequence[Sampling],
        noise: Tensor | None,
    ) -> Draft:
        """`lengths[r]` tokens behind the newest token of each row, in one call for all rows that draft any.

        Fewer where the drafter says that the later ones are not worth verifying.
        """
        longest, device = max(lengths), anchors.device
        rows = [row for row, length in enumerate(lengths) if length]
        counts = torch.tensor(lengths)
        if not rows:
            return Draft(anchors.new_zeros(len(slots), 0), counts)
        self.catch_up()
        sampler = ChainSampler([samplings[row] for row in rows], None if noise is None else noise[rows])
        # Masks read each other: what a row drafts must not depend on how long the others' drafts may be.
        steps = self.most if self.drafter.parallel and self.most else longest
        proposal = self.drafter.propose(self.state, [slots[row] for row in rows], anchors[rows], steps, sampler)
        if proposal.lengths is not None:
            counts[rows] = counts[rows].minimum(proposal.lengths)
            longest = int(counts.max())
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
