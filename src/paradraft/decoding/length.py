"""How many tokens to draft: always the same number, or the number that promises the most tokens a second.

The length of a round depends on rounds before it and on other sequences, never on what this round drafts. Otherwise
sampled text would not have the target's distribution: a rule that drops a draft because of the token that was drawn
makes that token rarer.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..drafters import Drafter
from ..errors import UserError
from .draft import LATER
from .request import Round, Sequence

AUTO: Final = "auto"
DraftLength = int | Literal["auto"]
Array = NDArray[np.float64]

PRIOR = 0.8  # of a draft token being accepted, before any was seen
PRIOR_WEIGHT = 6.0  # observations that the prior of a position is worth: a few rejections are no reason to stop
HORIZON = 200  # drafts over which the acceptance of a position is averaged; steps for whether drafting pays
ROW_WEIGHT = 10.0  # weight, in expected rejections, of the prior that a row is like the others
COST_WEIGHT = 4.0  # weight, in comparisons, of the prior that the costs were measured well
DEVIATION_HORIZON = 60  # drafts of a row, or comparisons of costs, over which a deviation is averaged
OUTLIER = 2.0  # times too much or too little that one comparison may count for: the machine also does other things
MARGIN = 1.02  # times as fast as plain decoding drafting must promise to be
KEEPING = 0.015  # share of the time of plain steps that a resting drafter may take to read the text
LOSS = 0.01  # share of the time of plain steps that is spent on asking whether drafting pays again
COMPARING = 0.005  # share of the time of drafting rounds that is spent on plain steps to compare them with


class LengthRule(Protocol):
    """`whole`: a parallel drafter drafts `most` tokens in any case, so that rows do not influence each other."""

    most: int
    whole: bool

    def prepare(self, rows: int, sampled: bool) -> None:
        """Before rounds of so many sequences, of which one is sampled or all are greedy."""

    def choose(self, sequences: list[Sequence]) -> list[int]:
        """How many tokens to draft for each; 0 for all is a plain step."""

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        """The sequences have ended a round that took so long, for which `choose` gave these lengths.

        A drafter that ends its draft sooner (DSpark's `cut`) has the next token rejected.
        """


class Fixed:
    """`most` tokens, or as many as the end of the answer leaves room for."""

    whole = True

    def __init__(self, most: int) -> None:
        self.most = most

    def prepare(self, rows: int, sampled: bool) -> None:
        pass

    def choose(self, sequences: list[Sequence]) -> list[int]:
        return [min(self.most, sequence.room - 1) for sequence in sequences]

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        pass


class Costs(Protocol):
    """Seconds that the parts of a round take; `prepare` as in LengthRule."""

    @property
    def catch_up(self) -> float:
        """Of letting a drafter observe a token later than in the round that brought it."""

    def prepare(self, rows: int, sampled: bool) -> None: ...

    def verify(self, rows: int) -> Array:
        """[K+1]: of the target's step with 0 to K drafted tokens in each of so many rows."""

    def draft(self, rows: int) -> Array:
        """[rows, K+1]: of drafting 0 to K tokens for 1, 2, ... rows."""


class AcceptanceHistory:
    """Shares of accepted tokens by position, and what is special about each row.

    s_k, the share of accepted tokens at position k among the drafts that are right up to it, is an exponential average
    over all rows. Its prior is s_{k-1}, so what is known of a position speaks for those behind it. A row multiplies all
    rejection probabilities 1 - s_k by one factor: its rejections divided by those that the s_k lead one to expect.
    """

    def __init__(self, most: int) -> None:
        self.accepted, self.reached = np.zeros(most), np.zeros(most)
        self.rows: WeakKeyDictionary[Sequence, Deviation] = WeakKeyDictionary()
        self.shares = self._shares()

    def survival(self, sequences: Tokens[Sequence]) -> Array:
        """[rows, K]: probabilities that the first k drafts are all accepted."""
        rows = self.rows
        factors = np.array([rows[sequence].factor if sequence in rows else 1.0 for sequence in sequences])
        kept: Array = (1 - factors[:, None] * (1 - self.shares)).clip(0, 1).cumprod(1)
        return kept

    def add(self, sequence: Sequence, length: int, last: Round) -> None:
        """The newest round of a sequence, in which `length` tokens were drafted."""
        kept, rejected = last.kept, last.kept < length and not last.clipped
        judged = kept + rejected
        own = self.rows.setdefault(sequence, Deviation(ROW_WEIGHT))
        own.add(float(rejected), float((1 - self.shares[:judged]).sum()))
        self.accepted *= 1 - 1 / HORIZON
        self.reached *= 1 - 1 / HORIZON
        self.accepted[:kept] += 1
        self.reached[:judged] += 1

    def update(self) -> None:
        """After the rounds of all rows were added."""
        self.shares = self._shares()

    def _shares(self) -> Array:
        share, shares = PRIOR, []
        for accepted, reached in zip(self.accepted.tolist(), self.reached.tolist(), strict=True):
            share = (accepted + PRIOR_WEIGHT * share) / (reached + PRIOR_WEIGHT)
            shares.append(share)
        return np.array(shares)


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


class Adaptive:
    """The lengths that promise the most tokens a second over all rows, by measured costs and tracked acceptance.

    What rounds really take corrects the measured costs: a drafting round is compared with a plain step behind it, and
    where drafting pays, a plain step comes now and then for that.

    All rows that draft draft equally much, as far as they have room: the target's step pays for the longest draft in
    every row. Where plain decoding is faster nothing is drafted, and no round says whether that has changed. So a round
    drafts all the same, as much as would pay by the prior, whenever the plain steps before it make that a loss of at
    most LOSS; and once for a new row, which is paid by the plain steps after it. Reading the text meanwhile costs the
    drafter time too: of more rows than KEEPING allows, those that accept least are given up.
    """

    whole = False

    def __init__(self, most: int, costs: Costs) -> None:
        self.most, self.costs = most, costs
        self.history = AcceptanceHistory(most)
        self._known: dict[int, tuple[Array, Array]] = {}
        self._deviations: dict[int, Deviation] = {}  # of the costs, by the size of the batch; see `_deviation`
        self._before: tuple[int, float] | None = None  # rows and relative seconds of the round before, if that drafted
        self._behind = 0  # tokens of each row that the drafter follows and has not observed yet
        self._saved = 0.0  # seconds that may be lost to a plain step where drafting pays
        self._resting: list[Sequence] = []  # they decode plainly until `_credit`, in seconds, reaches `_needed`
        self._credit = self._needed = self._earned = 0.0
        self._paying = 1.0  # share of the latest steps in which drafting paid

    def prepare(self, rows: int, sampled: bool) -> None:
        self.costs.prepare(rows, sampled)
        self._known.clear()

    def choose(self, sequences: list[Sequence]) -> list[int]:
        if sequences == self._resting and self._credit < self._needed:
            self._credit += self._earned
            self._paying *= 1 - 1 / HORIZON
            return self._rest(sequences)
        rows = len(sequences)
        rooms = np.array([sequence.room - 1 if sequence.followed else 0 for sequence in sequences])
        survival = self.history.survival(sequences) * (np.arange(self.most) < rooms[:, None])
        gains = survival.cumsum(1)  # [rows, K]: expected accepted tokens
        order = np.argsort(-gains, axis=0, kind="stable")
        best_first = np.take_along_axis(gains, order, 0).cumsum(0)  # for the best 1, 2, ... rows
        plain, drafted = self._seconds(rows)
        rates = (rows + best_first) / drafted
        drafting, length = divmod(int(rates.argmax()), self.most)
        lengths = np.minimum(length + 1, rooms)
        gain = float(rates[drafting, length]) * plain / rows
        pays = gain > MARGIN
        self._paying += (pays - self._paying) / HORIZON
        if pays:
            self._resting = []
            self._saved += COMPARING * float(drafted[drafting, length])
            if self._saved > (gain - 1) * plain:
                self._saved = 0.0
                return [0] * rows
            lengths[order[drafting + 1 :, length]] = 0
            return [int(n) for n in lengths]
        hoped = 1 + (PRIOR ** np.arange(1, self.most + 1)).cumsum()
        asked = drafted[np.count_nonzero(rooms) - 1]
        length = int((hoped / asked).argmax())
        loss = max(0.0, float(asked[length]) - plain)
        unknown = any(sequence not in self.history.rows for sequence in sequences)
        self._needed = loss * (1 - self._paying) if unknown else loss
        if self._credit >= self._needed and rooms.max() > 0:
            self._credit -= loss
            self._resting = []
            return [int(n) for n in np.minimum(length + 1, rooms)]
        self._resting = list(sequences)
        self._earned = max(LOSS * plain - sum(s.followed for s in sequences) * self.costs.catch_up, LOSS * plain / 2)
        self._credit += self._earned
        return self._rest(sequences)

    def _rest(self, sequences: list[Sequence]) -> list[int]:
        """A plain step; before the drafter reads what it has not yet, the rows that cost too much are given up."""
        if self._behind == LATER - 1:
            plain, token, known = float(self._measured(len(sequences))[0][0]), self.costs.catch_up, self.history.rows
            followed = [sequence for sequence in sequences if sequence.followed]
            followed.sort(key=lambda sequence: known[sequence].factor if sequence in known else 1.0)
            for sequence in followed[int(KEEPING * plain / token) :] if token else ():
                sequence.followed = False
        return [0] * len(sequences)

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        self._learn_costs(sequences, lengths, seconds)
        if not any(lengths):
            return
        for sequence, length in zip(sequences, lengths, strict=True):
            if length:
                self.history.add(sequence, length, sequence.generation.rounds[-1])
        self.history.update()

    def _learn_costs(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        """A plain step is compared with the drafting round before it, so that the machine was equally busy in both."""
        relative, rows = seconds / self.expected(sequences, lengths), len(lengths)
        if any(lengths):
            self._before, self._behind = (rows, relative), 0
            return
        if self._before is not None and self._before[0] == rows:
            found = min(max(self._before[1] / relative, 1 / OUTLIER), OUTLIER)
            self._deviation(rows).add(found, 1.0)
        self._before, self._behind = None, (self._behind + 1) % LATER

    def expected(self, sequences: list[Sequence], lengths: list[int]) -> float:
        """Seconds of the coming round by the measured costs alone, when it drafts so many tokens for each row."""
        verify, draft = self._measured(len(lengths))
        drafting, longest = int(np.count_nonzero(lengths)), max(lengths)
        if not longest:
            return float(verify[0])
        late = sum(sequence.followed for sequence in sequences) * self._behind * self.costs.catch_up
        return float(verify[longest] + draft[drafting - 1, longest]) + late

    def _measured(self, rows: int) -> tuple[Array, Array]:
        """[K+1] of verifying 0 to K tokens in so many rows, [rows, K+1] of drafting as many for 1, 2, ... of them."""
        if rows not in self._known:
            self._known[rows] = self.costs.verify(rows), self.costs.draft(rows)
        return self._known[rows]

    def _deviation(self, rows: int) -> Deviation:
        """How much dearer than measured a drafting round is against a plain step; one for 1, 2-3, 4-7, ... rows."""
        return self._deviations.setdefault(rows.bit_length(), Deviation(COST_WEIGHT))

    def _seconds(self, rows: int) -> tuple[float, Array]:
        """Of a plain step; of a round that drafts 1 to K tokens for 1, 2, ... of the rows, [rows, K]."""
        verify, draft = self._measured(rows)
        drafted: Array = self._deviation(rows).factor * (verify[1:] + draft[:, 1:])
        return float(verify[0]), drafted


def check_draft_length(drafter: Drafter | None, draft_length: DraftLength | None) -> int:
    """The most tokens to draft a round: the drafter's maximum unless told, 0 without a drafter."""
    if drafter is None:
        return 0
    if draft_length is None or draft_length == AUTO:
        return drafter.max_draft
    if not isinstance(draft_length, int) or not 1 <= draft_length <= drafter.max_draft:
        raise UserError(
            f"draft length {draft_length} is outside 1 to {drafter.max_draft}, what this drafter was trained for; "
            f"choose a length in that range, or {AUTO}"
        )
    return draft_length
