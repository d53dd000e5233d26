"""What of a tree to verify: what pays by what the drafter says of its nodes in this round.

The nodes of a tree are chosen without chance. So how many of them are verified may depend on what the drafter thinks of
them, at any temperature; the length of a sampled chain may not (see length.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .draft import Draft, no_draft
from .history import Array, Deviation, Nodes, TreeHistory
from .length import Adaptive, Costs
from .request import Sequence

BOOKKEEPING = 0.08  # share of a round with a chain that a tree may add
DECIDING = 0.001  # seconds of a round in which `paying` and what follows from it are computed
SURPLUS_WEIGHT = 10.0  # weight of the prior that choosing anew in every round gains nothing, in tokens


@dataclass(frozen=True)
class Offer:
    """To verify so many nodes of each row: tokens that are expected to be kept, and seconds of the verify forward."""

    size: int
    kept: float
    seconds: float

    def worth(self, rate: float) -> float:
        return self.kept - rate * self.seconds


class Confident(Adaptive):
    """Draft a large tree, then verify its best nodes, as many as bring the most tokens a second.

    Which rows draft is decided before, as in Adaptive, by what trees have brought so far. A node's chance of being kept
    is what the drafter gives it, corrected by what became of such nodes (see TreeHistory). n nodes are verified in each
    row, where the sum of their chances - rate x seconds is largest, at the rate that such rounds have promised so far.
    The likeliest chain is verified without the branches where these do not pay for what a tree costs beyond a chain.

    whole: the drafter drafts all positions in any case, so trees are always drafted as large as they may be.
    """

    def __init__(self, costs: Costs, history: TreeHistory, whole: bool) -> None:
        super().__init__(costs, history)
        self.trees, self.nodes, self.draws_all = history, self.most, whole
        self._drafted: list[Nodes] = []  # by row, in this round
        self._verifying = 0.0  # seconds, by the measured costs
        self._surplus = Deviation(SURPLUS_WEIGHT)

    @property
    def surplus(self) -> float:
        return max(1.0, self._surplus.factor)  # less means that texts have changed, and the averages will tell

    def choose(self, sequences: list[Sequence]) -> list[int]:
        lengths = super().choose(sequences)
        self._verifying = float(self._measured(len(lengths))[0][max(lengths)])
        return [self.most if length and self.draws_all else length for length in lengths]

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
        tree = best_offer(chances, factor * verify, self.rate)
        unbranched = np.maximum(verify - self.costs.beyond_chains(rows)[1], verify[0])
        chain = best_offer(along, factor * unbranched, self.rate)
        if chain.worth(self.rate) >= tree.worth(self.rate):
            taken, places = chain, [row[: chain.size] for row in chains]
            draft = chains_of(draft, places)
        else:
            taken, places = tree, [list(range(min(tree.size, len(row)))) for row in parents]
            draft = draft.first(tree.size)
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
        return self.most, max(0.0, float(asked[0]) - plain)

    def _round(self, rows: int, drafting: int, lengths: list[int]) -> float:
        return self._verifying + float(self._measured(rows)[1][drafting - 1, max(lengths)])

    def _seconds(self, rows: int) -> tuple[float, Array]:
        if not self.draws_all:
            return super()._seconds(rows)
        verify, draft = self._measured(rows)
        drafted: Array = self._deviation(rows).factor * (verify[1:] + draft[:, -1:])
        return float(verify[0]), drafted


def best_offer(chances: Array, seconds: Array, rate: float) -> Offer:
    """The first n of each row, chances [rows, N], for which most tokens come at this rate; seconds [> N]."""
    kept = np.concatenate(([0.0], chances.sum(0).cumsum()))
    size = int((kept - rate * seconds[: len(kept)]).argmax())
    return Offer(size, float(kept[size]), float(seconds[size]))


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

    whole = False

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
