"""What of a tree to verify: what pays by what the drafter says of its nodes in this round.

The nodes of a tree are chosen without chance. So how many of them are verified may depend on what the drafter thinks of
them, at any temperature; the length of a sampled chain may not (see length.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..drafters import Drafter
from ..models import Target
from .costs import MeasuredCosts
from .draft import Draft, no_draft
from .history import Array, ChainHistory, Deviation, Nodes, TreeHistory
from .length import Adaptive, Costs, LengthRule, step_seconds
from .request import Sequence

NODES = 2  # of a tree for each token of its longest path, at most, where that is left to the engine
BOOKKEEPING = 0.08  # share of a round with a chain that a tree may add
SPARE = 0.05  # share of a round that may go into drafting more than is likely to be verified
DECIDING = 0.001  # seconds of a round in which `paying` and what follows from it are computed
SURPLUS_WEIGHT = 10.0  # weight of the prior that choosing anew in every round gains nothing, in tokens


@dataclass(frozen=True)
class Offer:
    """To verify so many nodes of each row: tokens that are expected to be kept, and seconds of the verify forward."""

    sizes: list[int]
    kept: float
    seconds: float

    def worth(self, rate: float) -> float:
        return self.kept - rate * self.seconds


class Confident(Adaptive):
    """Draft a large tree, then verify its best nodes, as many as bring the most tokens a second.

    Which rows draft is decided before, as in Adaptive, by what trees have brought so far. A node's chance of being kept
    is what the drafter gives it, corrected by what became of such nodes (see TreeHistory). Those nodes are verified for
    which the sum of their chances - rate x seconds is largest, at the rate that such rounds have promised so far: in
    some rows more than in others, but equally many where padding costs as much as tokens. The likeliest chains are
    verified without the branches where these do not pay for what a tree costs beyond a chain.
    """

    def __init__(self, costs: Costs, history: TreeHistory) -> None:
        super().__init__(costs, history)
        self.trees, self.nodes = history, self.most
        self._drafted: list[Nodes] = []  # by row, in this round
        self._verifying = 0.0  # seconds, by the measured costs
        self._surplus = Deviation(SURPLUS_WEIGHT)

    @property
    def surplus(self) -> float:
        return max(1.0, self._surplus.factor)  # less means that texts have changed, and the averages will tell

    def choose(self, sequences: list[Sequence]) -> list[int]:
        lengths = super().choose(sequences)
        self._verifying = float(self._measured(len(lengths))[0][max(lengths)])
        drafted = self._with_spare(len(lengths), int(np.count_nonzero(lengths)), max(lengths))
        return [drafted if length else 0 for length in lengths]

    def paying(self, draft: Draft) -> Draft:
        assert draft.scores is not None and draft.parents is not None
        said = np.exp(draft.scores.double().cpu().numpy())
        chances, rows = self.trees.chances(said), len(said)
        parents = [row[:length] for row, length in zip(draft.parents.tolist(), draft.lengths.tolist(), strict=True)]
        chains = [likeliest_chain(row) for row in parents]
        along = np.zeros((rows, max(map(len, chains))))
        for row, path in enumerate(chains):
            along[row, : len(path)] = chances[row, path]
        factor, (verify, drafting) = self._deviation(rows).factor, self._measured(rows)
        padding = self.costs.padding(rows)
        tree = best_offer(chances, verify, padding, factor, self.rate)
        unbranched = np.maximum(verify - self.costs.beyond_chains(rows)[1], verify[0])
        chain = best_offer(along, unbranched, padding, factor, self.rate)
        if chain.worth(self.rate) >= tree.worth(self.rate):
            taken, places = chain, [row[:size] for row, size in zip(chains, chain.sizes, strict=True)]
            draft = chains_of(draft, places)
        else:
            taken, places = tree, [list(range(len(row)))[:size] for row, size in zip(parents, tree.sizes, strict=True)]
            draft = draft.first(tree.sizes)
        self._drafted = [Nodes(row, np.array(kept, dtype=np.int64)) for row, kept in zip(said, places, strict=True)]
        self._verifying = taken.seconds / factor
        seconds = taken.seconds + factor * float(drafting[np.count_nonzero(said.any(1)) - 1, said.shape[1]])
        self._surplus.add(rows + taken.kept, self.promised * seconds)
        return draft

    def bookkeeping(self, rows: int, length: int) -> float:
        """Share that making and judging a tree adds to a round with a chain of so many tokens."""
        (verify, draft), beyond = self._measured(rows), sum(self.costs.beyond_chains(rows))
        return (beyond + DECIDING) / float(verify[length] + draft[-1, length] - beyond)

    def nodes_of(self, row: int) -> Nodes | None:
        return self._drafted[row]

    def _longest(self, rows: int) -> int:
        return self.most  # what is not worth it is cut off

    def _trial(self, asked: Array, plain: float, longest: int) -> tuple[int, float]:
        """If the drafter has nothing to say, hardly more than one node is verified."""
        return 1, max(0.0, float(asked[0]) - plain)

    def _round(self, rows: int, drafting: int, lengths: list[int]) -> float:
        return self._verifying + float(self._measured(rows)[1][drafting - 1, max(lengths)])

    def _with_spare(self, rows: int, drafting: int, nodes: int) -> int:
        """How many nodes to draft where so many pay: as many more as cost at most SPARE."""
        if not nodes:
            return 0
        seconds = self._measured(rows)[1][drafting - 1]
        most = float(seconds[nodes]) + SPARE * super()._round(rows, drafting, [nodes] * drafting)
        return int(np.flatnonzero(seconds <= most)[-1])


def best_offer(chances: Array, verify: Array, padding: float | None, factor: float, rate: float) -> Offer:
    """The first nodes of each row, chances [rows, N], for which most tokens come at this rate.

    They take `factor` times what step_seconds gives for `verify` [> N] and `padding`.
    """
    rows, nodes = chances.shape
    if padding is None or rows == 1:
        kept = np.concatenate(([0.0], chances.sum(0).cumsum()))
        seconds = factor * verify[: nodes + 1]
        size = int((kept - rate * seconds).argmax())
        return Offer([size] * rows, float(kept[size]), float(seconds[size]))
    # Of all nodes the best 1, 2, ... that have a place among the first 1, 2, ... of their row.
    falling = np.minimum.accumulate(chances, axis=1)  # no node is taken without those before it
    best_first = np.argsort(-falling, axis=None, kind="stable")
    longest = np.arange(nodes + 1)[:, None]
    allowed = best_first % nodes < longest
    kept = (chances.ravel()[best_first] * allowed).cumsum(1)
    seconds = factor * step_seconds(verify, rows, longest, allowed.cumsum(1) / rows, padding)
    most, last = divmod(int((kept - rate * seconds).argmax()), rows * nodes)
    sizes = np.bincount(best_first[: last + 1][allowed[most, : last + 1]] // nodes, minlength=rows)
    return Offer(sizes.tolist(), float(kept[most, last]), float(seconds[most, last]))


def likeliest_chain(parents: list[int]) -> list[int]:
    """From the root always to the likeliest child, which is the first one."""
    chain: list[int] = []
    for node, parent in enumerate(parents):
        if parent == (chain[-1] if chain else -1):
            chain.append(node)
    return chain


def chains_of(draft: Draft, places: list[list[int]]) -> Draft:
    """The tokens at these places of each row's tree as a chain chosen without chance."""
    longest = max(map(len, places))
    if not longest:
        return no_draft(draft.tokens[:, 0])
    index = torch.tensor([row + [0] * (longest - len(row)) for row in places], device=draft.tokens.device)
    return Draft(draft.tokens.gather(1, index), torch.tensor([len(row) for row in places]))


class TreesOrChains:
    """Trees, but chains where a row is sampled, or where making and judging a tree costs more than BOOKKEEPING.

    The two learn apart from each other.
    """

    def __init__(self, trees: Confident, chains: Adaptive) -> None:
        self.trees, self.chains = trees, chains
        self.now: Adaptive = trees
        self.most = max(trees.most, chains.most)

    @property
    def nodes(self) -> int | None:
        return self.now.nodes

    def prepare(self, rows: int, sampled: bool) -> None:
        self.now = self.chains
        if not sampled:
            self.trees.prepare(rows, sampled)
            if self.trees.bookkeeping(rows, self.chains.most) < BOOKKEEPING:
                self.now = self.trees
                return
        self.chains.prepare(rows, sampled)

    def choose(self, sequences: list[Sequence]) -> list[int]:
        return self.now.choose(sequences)

    def paying(self, draft: Draft) -> Draft:
        return self.now.paying(draft)

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        self.now.learn(sequences, lengths, seconds)


def adaptive(target: Target, drafter: Drafter, draft_length: int, tree: int | None) -> LengthRule:
    """Trees where they are asked for, or chains (0); else (None) what suits, if the drafter drafts in one pass."""

    def chains() -> Adaptive:
        return Adaptive(MeasuredCosts(target, drafter, draft_length), ChainHistory(draft_length))

    def trees(nodes: int) -> Confident:
        return Confident(MeasuredCosts(target, drafter, draft_length, nodes), TreeHistory(nodes))

    if tree:
        return trees(tree)
    if tree is None and drafter.parallel:
        return TreesOrChains(trees(NODES * draft_length), chains())
    return chains()
