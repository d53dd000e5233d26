"""What is known of drafts before they are made: how many tokens of them the target has kept so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from .request import Round, Sequence

Array = NDArray[np.float64]

PRIOR = 0.8  # of a draft token being accepted, before any was seen
PRIOR_WEIGHT = 6.0  # observations that the prior of a place is worth: a few rejections are no reason to stop
ROW_WEIGHT = 10.0  # weight of the prior that a row is like the others, in expected rejections (of trees: kept tokens)
CALIBRATION_WEIGHT = 2.0  # weight of the prior that a drafter's probabilities are right, in expected kept tokens
BOUNDS = np.array([0.05, 0.1, 0.2, 0.4, 0.7, 0.9])  # of probabilities that have a factor together
DEVIATION_HORIZON = 60  # drafts of a row, or comparisons of costs, over which a deviation is averaged


@dataclass
class Deviation:
    """How many times as much is seen as was expected, by exponential sums; `weight`: of the prior, which is 1."""

    weight: float
    seen: float = 0.0
    expected: float = 0.0

    @property
    def factor(self) -> float:
        return (self.weight + self.seen) / (self.weight + self.expected)

    def add(self, seen: float, expected: float) -> None:
        self.seen += seen - self.seen / DEVIATION_HORIZON
        self.expected += expected - self.expected / DEVIATION_HORIZON


@dataclass(frozen=True)
class Nodes:
    """Of a row's tree: said [N], the drafter's own probabilities, 0 for padding; the places that were verified."""

    said: Array
    verified: NDArray[np.int64]


class History(ABC):
    """By place in the draft: `shares` [N] that were kept, and how often that was judged, `seen` [N].

    The shares are exponential averages over all rows. The prior of a place is `fall` times the share of the place
    before it, of the first one PRIOR, so what is known of a place speaks for those behind it. `rows`: what is special
    about each sequence that has drafted.
    """

    fall: float
    horizon: int  # drafts over which the share of a place is averaged

    def __init__(self, most: int) -> None:
        self.kept, self.seen, self.shares = np.zeros(most), np.zeros(most), np.zeros(most)
        self.rows: WeakKeyDictionary[Sequence, Deviation] = WeakKeyDictionary()
        self.update()

    def update(self) -> None:
        """After the rounds of all rows were added."""
        prior = PRIOR
        for place, (kept, seen) in enumerate(zip(self.kept.tolist(), self.seen.tolist(), strict=True)):
            self.shares[place] = (kept + PRIOR_WEIGHT * prior) / (seen + PRIOR_WEIGHT)
            prior = self.fall * self.shares[place]

    def factor(self, sequence: Sequence) -> float:
        return self.rows[sequence].factor if sequence in self.rows else 1.0

    def count(self, kept: Array) -> None:
        """One more draft, of which the first places [n] were judged, and so much of each was kept."""
        self.kept *= 1 - 1 / self.horizon
        self.seen *= 1 - 1 / self.horizon
        self.kept[: len(kept)] += kept
        self.seen[: len(kept)] += 1

    @abstractmethod
    def room(self, sequence: Sequence) -> int:
        """How many tokens may be drafted for it."""

    @abstractmethod
    def gains(self, sequences: Tokens[Sequence]) -> Array:
        """[rows, N]: how many of 1 to N drafted tokens are expected to be kept."""

    @abstractmethod
    def rejection(self, sequence: Sequence) -> float:
        """How many times as often as in other rows its tokens are rejected."""

    @abstractmethod
    def add(self, sequence: Sequence, length: int, last: Round, nodes: Nodes | None = None) -> None:
        """The newest round of a sequence, in which `length` tokens were to be drafted.

        A drafter that ends its draft sooner (DSpark's `cut`) has the next token rejected. `nodes` of a tree.
        """


class ChainHistory(History):
    """s_k: share of accepted tokens at position k among the drafts that are right up to it.

    A row multiplies all rejection probabilities 1 - s_k by one factor: its rejections divided by those that the s_k
    lead one to expect.
    """

    fall, horizon = 1.0, 200

    def room(self, sequence: Sequence) -> int:
        return min(len(self.shares), sequence.room - 1)

    def gains(self, sequences: Tokens[Sequence]) -> Array:
        rooms = np.array([self.room(sequence) for sequence in sequences])
        inside = np.arange(len(self.shares)) < rooms[:, None]
        found: Array = (self.survival(sequences) * inside).cumsum(1)
        return found

    def survival(self, sequences: Tokens[Sequence]) -> Array:
        """[rows, K]: probabilities that the first k drafts are all accepted."""
        factors = np.array([self.rejection(sequence) for sequence in sequences])
        kept: Array = (1 - factors[:, None] * (1 - self.shares)).clip(0, 1).cumprod(1)
        return kept

    def rejection(self, sequence: Sequence) -> float:
        return self.factor(sequence)

    def add(self, sequence: Sequence, length: int, last: Round, nodes: Nodes | None = None) -> None:
        kept, rejected = last.kept, last.kept < length and not last.clipped
        judged = kept + rejected
        own = self.rows.setdefault(sequence, Deviation(ROW_WEIGHT))
        own.add(float(rejected), float((1 - self.shares[:judged]).sum()))
        self.count((np.arange(judged) < kept).astype(float))


class TreeHistory(History):
    """The average chance of being kept of the likeliest node of a tree, of its second likeliest node, and so on.

    The best n nodes of a tree are the best tree of n nodes. So one round tells what every smaller tree may have kept,
    and the sum of the first n averages is what n nodes are expected to bring. All nodes count, also those that were not
    verified: if only what a drafter is sure of were counted, all trees would look good. A row multiplies all averages
    by one factor: its kept tokens, of other nodes their chances, divided by what the averages lead one to expect.

    calibration: nodes that were kept by those that the drafter's own probabilities lead one to expect; one factor for
    probabilities below 0.05, one for those up to 0.1, and so on (BOUNDS).
    """

    fall, horizon = PRIOR, 50

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.calibration = [Deviation(CALIBRATION_WEIGHT) for _ in range(len(BOUNDS) + 1)]

    def room(self, sequence: Sequence) -> int:
        return len(self.shares) if sequence.room > 1 else 0

    def gains(self, sequences: Tokens[Sequence]) -> Array:
        factors = np.array([self.factor(sequence) for sequence in sequences])
        rooms = np.array([sequence.room - 1 for sequence in sequences])
        found: Array = np.minimum((factors[:, None] * self.shares).clip(0, 1).cumsum(1), rooms[:, None])
        return found

    def rejection(self, sequence: Sequence) -> float:
        return 1 / self.factor(sequence)

    def chances(self, said: Array) -> Array:
        """Of being kept, of nodes that the drafter gives the probabilities `said`."""
        factors = np.array([deviation.factor for deviation in self.calibration])
        return np.minimum(factors[np.searchsorted(BOUNDS, said)] * said, 1.0)

    def add(self, sequence: Sequence, length: int, last: Round, nodes: Nodes | None = None) -> None:
        assert nodes is not None
        own = self.rows.setdefault(sequence, Deviation(ROW_WEIGHT))
        if last.clipped:  # nobody knows what else would have been kept
            return
        verified = nodes.verified[: len(last.drafted)]
        drafted = max(np.count_nonzero(nodes.said), 1 + verified.max(initial=-1))  # what was verified may round to 0
        chances = self.chances(nodes.said)[:drafted]
        self.count(chances)
        kept = chances.copy()
        kept[verified] = 0
        kept[verified[list(last.path) if last.depth is not None else slice(last.kept)]] = 1
        own.add(float(kept.sum()), float(self.shares[: len(kept)].sum()))
        self._calibrate(nodes.said[verified], kept[verified])

    def _calibrate(self, said: Array, kept: Array) -> None:
        """What is not seen any more is forgotten: probabilities that look too bad to be verified get another chance."""
        bins = np.searchsorted(BOUNDS, said)
        for place, deviation in enumerate(self.calibration):
            here = bins == place
            deviation.add(float(kept[here].sum()), float(said[here].sum()))
