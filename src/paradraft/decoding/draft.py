"""What is verified in a round, how it is made, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..drafters import BranchingDrafter, Drafter, DraftState
from .sampling import Sampling, distributions, draw, tempered
from .tree import Growth, Tree, best_tree, depths_of, tree_size

LATER = 64  # tokens of a row that a drafter may not have observed yet


@dataclass(frozen=True)
class Draft:
    """tokens [rows, N], of which row r drafted `lengths[r]`; the rest is padding.

    A chain, or with `parents` [rows, N] a tree: the index of each node's parent, which stands before it, -1 for the
    newest committed token; siblings are different tokens. Of a tree also `scores` [rows, N], see Tree. `probabilities`
    [rows, N, V] are what the tokens of a chain were sampled from; None: they were chosen without chance, each stands
    for a point mass.
    """

    tokens: Tensor
    lengths: Tensor
    parents: Tensor | None = None
    probabilities: Tensor | None = None
    scores: Tensor | None = None

    def first(self, nodes: Sequence[int]) -> Draft:
        """The tree of the best nodes[r] in each row; of none the empty chain."""
        lengths = self.lengths.minimum(torch.tensor(nodes))
        most = int(lengths.max())
        if not most:
            return no_draft(self.tokens[:, 0])
        assert self.parents is not None and self.scores is not None
        return Draft(self.tokens[:, :most], lengths, self.parents[:, :most], None, self.scores[:, :most])


def no_draft(anchors: Tensor) -> Draft:
    """A chain of nothing for every row of `anchors` [rows]."""
    return Draft(anchors.new_zeros(len(anchors), 0), torch.zeros(len(anchors), dtype=torch.long))


@dataclass(frozen=True)
class Noise:
    """Numbers in [0, 1) that decide what is kept: `accept` [rows, N] for the drafted tokens, `last` [rows]."""

    accept: Tensor
    last: Tensor


@dataclass(frozen=True)
class Accepted:
    """counts [rows] of drafted tokens that are kept, `next` [rows]: the token that the target adds.

    path [rows, 1 + P]: in a tree, 0 and the kept nodes, each counted from 1; None: the first ones.
    """

    counts: Tensor
    next: Tensor
    path: Tensor | None = None

    def along(self, values: Tensor) -> Tensor:
        """Of values [rows, 1 + N, ...] of the newest committed token and the drafts, those of the kept ones, in order.

        What stands behind the kept ones means nothing.
        """
        if self.path is None:
            return values
        return values[torch.arange(len(values), device=values.device)[:, None], self.path]

    def shortened(self, length: int) -> Accepted:
        """The same with each path cut to its first `length` places."""
        return self if self.path is None else replace(self, path=self.path[:, :length])


def drafted(draft: Draft) -> Tensor:
    """[rows, N]: which tokens are drafted and not padding."""
    device = draft.tokens.device
    return torch.arange(draft.tokens.shape[1], device=device) < draft.lengths.to(device)[:, None]


def reach(draft: Draft) -> Tensor:
    """[rows]: how many tokens ahead the longest drafted text goes."""
    if draft.parents is None or not draft.tokens.shape[1]:
        return draft.lengths.to(draft.tokens.device)
    return (depths_of(draft.parents)[:, 1:] * drafted(draft)).amax(-1)


def at(values: Tensor, places: Tensor) -> Tensor:
    """values [rows, N, ...] at one place [rows] of each row."""
    return values[torch.arange(len(values), device=values.device), places]


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


class TreeSampler:
    """The tokens [rows, N] of the best trees from the draft logits [rows, K, V] of one pass; see `best_tree`.

    Above temperature 0 the draft's probabilities are taken at that temperature, as the target's are; else at 1, where
    they are the drafter's own estimate of what the target will choose.
    """

    def __init__(self, samplings: Sequence[Sampling], depths: Sequence[int], nodes: int) -> None:
        self.temperatures = torch.tensor([sampling.temperature or 1.0 for sampling in samplings])
        self.depths, self.nodes = depths, nodes
        self.tree: Tree | None = None

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        scaled = tempered(logits, self.temperatures[:, None, None])
        self.tree = best_tree(scaled.log_softmax(-1), self.depths, self.nodes)
        return self.tree.tokens, None


class LevelSampler:
    """The same for a drafter that drafts step by step, from the draft logits [rows, P, V] behind its last nodes."""

    def __init__(self, samplings: Sequence[Sampling], depths: Sequence[int], nodes: int) -> None:
        self.temperatures = torch.tensor([sampling.temperature or 1.0 for sampling in samplings])
        self.growth = Growth(depths, nodes)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return self.growth.grow(tempered(logits, self.temperatures[:, None, None]).log_softmax(-1))


class Deferred:
    """Rounds without drafts, one token a row, which the drafter observes together: one by one they cost too much.

    Nothing is copied before that. `first[slot]` is the first of the rounds that belongs to the slot's present sequence.
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
        latest = set(self.rounds[-1][0]) if self.rounds else set()  # the others have ended or are given up
        for number, (slots, features, tokens) in enumerate(self.rounds):
            for row, slot in enumerate(slots):
                if slot in latest and number >= self.first.get(slot, 0):
                    found.setdefault(slot, []).append((features[row], tokens[row]))
        self.rounds, self.first = [], {}
        if not found:
            return None
        features = pad_sequence([torch.cat([f for f, _ in own]) for own in found.values()], batch_first=True)
        tokens = pad_sequence([torch.cat([t for _, t in own]) for own in found.values()], batch_first=True)
        return list(found), features, tokens, torch.tensor([len(own) for own in found.values()])


class Drafting:
    """Everything that drafts: the drafter and what it remembers of `rows` sequences of at most `capacity` tokens.

    nodes: how many a drafter that branches may look at to draft a tree.
    """

    def __init__(self, drafter: Drafter, rows: int, capacity: int, nodes: int = 0) -> None:
        self.drafter = drafter
        self.state: DraftState = drafter.start(rows, capacity + LATER + nodes)  # what is observed late is ragged
        self.margin = self.state.cache.capacity - capacity
        self.deferred = Deferred()

    def observe(
        self, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor, rows: Sequence[int]
    ) -> None:
        """As `Drafter.observe`, of these `rows` alone; single tokens, of rounds that drafted nothing, may wait."""
        if len(rows) < len(slots):
            slots, features, tokens, counts = [slots[row] for row in rows], features[rows], tokens[rows], counts[rows]
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

    def resize(self, rows: int, capacity: int) -> None:
        self.state.resize(rows, capacity + self.margin)

    def chain(
        self,
        slots: Sequence[int],
        anchors: Tensor,
        lengths: Sequence[int],
        samplings: Sequence[Sampling],
        noise: Tensor | None,
    ) -> Draft:
        """`lengths[r]` tokens behind the newest token of each row, in one call for all rows that draft any; one must.

        Fewer where the drafter says that the later ones are not worth verifying.
        """
        longest = max(lengths)
        rows = [row for row, length in enumerate(lengths) if length]
        counts = torch.tensor(lengths)
        self.catch_up()
        sampler = ChainSampler([samplings[row] for row in rows], None if noise is None else noise[rows])
        proposal = self.drafter.propose(self.state, [slots[row] for row in rows], anchors[rows], longest, sampler)
        if proposal.lengths is not None:
            counts[rows] = counts[rows].minimum(proposal.lengths)
            longest = int(counts.max())
        tokens, probabilities = proposal.tokens[:, :longest], proposal.probabilities
        if probabilities is not None:
            probabilities = among(probabilities[:, :longest], rows, len(slots))
        return Draft(among(tokens, rows, len(slots)), counts, None, probabilities)

    def tree(
        self,
        slots: Sequence[int],
        anchors: Tensor,
        depths: Sequence[int],
        samplings: Sequence[Sampling],
        nodes: Sequence[int],
    ) -> Draft:
        """The best tree of at most nodes[r] for each row, at most depths[r] deep. One row must have a depth.

        All rows get the trees of the largest size, of which the first nodes are the best smaller ones.
        """
        vocabulary = self.drafter.vocabulary
        known = self.drafter.target.vocabulary_size if vocabulary is None else len(vocabulary)
        counts = torch.tensor([tree_size(n, depth, known) for n, depth in zip(nodes, depths, strict=True)])
        rows, longest = [row for row, depth in enumerate(depths) if depth], int(counts.max())
        self.catch_up()
        asked = [samplings[row] for row in rows], [depths[row] for row in rows], max(nodes)
        tree = self._grown([slots[row] for row in rows], anchors[rows], *asked)
        tokens = among(tree.tokens[:, :longest], rows, len(slots))
        parents = among(tree.parents[:, :longest], rows, len(slots), -1)
        scores = among(tree.scores[:, :longest], rows, len(slots), float("-inf"))
        return Draft(tokens, counts, parents, None, scores)

    def _grown(
        self, slots: list[int], anchors: Tensor, samplings: list[Sampling], depths: list[int], nodes: int
    ) -> Tree:
        """In the target's ids: from one pass of the drafter, or step by step."""
        if isinstance(self.drafter, BranchingDrafter):
            levels = LevelSampler(samplings, depths, nodes)
            self.drafter.propose_tree(self.state, slots, anchors, max(depths), levels)
            tree, vocabulary = levels.growth.tree, self.drafter.vocabulary
            return tree if vocabulary is None else replace(tree, tokens=vocabulary.ids[tree.tokens])
        sampler = TreeSampler(samplings, depths, nodes)
        proposal = self.drafter.propose(self.state, slots, anchors, max(depths), sampler)
        assert sampler.tree is not None
        return replace(sampler.tree, tokens=proposal.tokens)


def among(values: Tensor, rows: list[int], count: int, rest: float = 0) -> Tensor:
    """`values` of some rows among `count`, the others filled with `rest`."""
    if len(rows) == count:
        return values
    return values.new_full((count, *values.shape[1:]), rest).index_copy(
        0, torch.tensor(rows, device=values.device), values
    )
