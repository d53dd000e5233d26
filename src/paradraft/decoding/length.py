"""How many tokens to draft: always the same number, or the number that promises the most tokens a second.

The length of a chain depends on rounds before it and on other sequences, never on what this round drafts. Otherwise
sampled text would not have the target's distribution: a rule that drops a draft because of the token that was drawn
makes that token rarer.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..drafters import Drafter
from ..errors import UserError
from .draft import LATER, Draft
from .history import PRIOR, PRIOR_WEIGHT, Deviation, History, Nodes
from .request import Sequence

AUTO: Final = "auto"
DraftLength = int | Literal["auto"]
Array = NDArray[np.float64]

COST_WEIGHT = 4.0  # weight, in comparisons, of the prior that the costs were measured well
STEPS = 200  # over which the share of those in which drafting pays is averaged
OUTLIER = 2.0  # times too much or too little that one comparison may count for: the machine also does other things
MARGIN = 1.05  # times as fast as plain decoding drafting must promise to be
KEEPING = 0.015  # share of the time of plain steps that a resting drafter may take to read the text
LOSS = 0.01  # share of the time of plain steps that is spent on asking whether drafting pays again
STALE = 0.7  # share of the measured time that plain steps take where the costs were measured on a busy machine
WATCHED = 16  # plain steps of which the median tells that; four times as many after each new measurement
COMPARING = 0.005  # share of the time of drafting rounds that is spent on plain steps to compare them with
FIRST = 16  # tokens that all rows together draft in a round as long as nothing is known, but at least one each


class LengthRule(Protocol):
    """How much to draft: so many tokens of a chain, or so many nodes of a tree, `most` of them at any time."""

    most: int

    @property
    def nodes(self) -> int | None:
        """Of a tree in the coming round, at most; None: it drafts chains."""

    def prepare(self, rows: int, sampled: bool) -> None:
        """Before rounds of so many sequences, of which one is sampled or all are greedy."""

    def choose(self, sequences: list[Sequence]) -> list[int]:
        """How many tokens to draft for each; 0 for all is a plain step."""

    def paying(self, draft: Draft) -> Draft:
        """What of the trees that were drafted is verified."""

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        """The sequences have ended a round that took so long, for which `choose` gave these lengths."""


class Fixed:
    """`most` tokens, or as many as the end of the answer leaves room for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.nodes: int | None = None

    def prepare(self, rows: int, sampled: bool) -> None:
        pass

    def choose(self, sequences: list[Sequence]) -> list[int]:
        return [min(self.most, sequence.room - 1) for sequence in sequences]

    def paying(self, draft: Draft) -> Draft:
        return draft

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        pass


class FixedTree(Fixed):
    """Trees of `most` nodes wherever a drafted token has room."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.nodes = most

    def choose(self, sequences: list[Sequence]) -> list[int]:
        return [self.most if sequence.room > 1 else 0 for sequence in sequences]


class Costs(Protocol):
    """Seconds that the parts of a round take; `prepare` as in LengthRule. `forget`: they are to be measured again."""

    @property
    def catch_up(self) -> float:
        """Of letting a drafter observe a token later than in the round that brought it."""

    def prepare(self, rows: int, sampled: bool) -> None: ...

    def forget(self) -> None: ...

    def verify(self, rows: int) -> Array:
        """[K+1]: of the target's step with 0 to K drafted tokens in each of so many rows."""

    def padding(self, rows: int) -> float | None:
        """Of a place in the target's step that holds no token, in so many rows; None: as much as a token."""

    def beyond_chains(self, rows: int) -> tuple[float, float]:
        """Of drafting a tree and of verifying it, beyond what a chain of as many tokens takes."""

    def draft(self, rows: int) -> Array:
        """[rows, K+1]: of drafting 0 to K tokens for 1, 2, ... rows."""


class Adaptive:
    """The lengths that promise the most tokens a second over all rows, by measured costs and tracked acceptance.

    What rounds really take corrects the measured costs: a drafting round is compared with a plain step behind it, and
    where drafting pays, a plain step comes now and then for that. Where plain steps are far quicker than measured, the
    machine was busy then, and the next batch begins with a new measurement.

    All rows that draft draft equally much, as far as they have room. Where plain decoding is faster nothing is drafted,
    and no round says whether that has changed. So a round drafts all the same, as much as would pay by the prior,
    whenever the plain steps before it make that a loss of at most LOSS; and once for a new row, which is paid by the
    plain steps after it. Reading the text meanwhile costs the drafter time too: of more rows than KEEPING allows, those
    that accept least are given up.
    """

    def __init__(self, costs: Costs, history: History) -> None:
        self.costs, self.history, self.most = costs, history, len(history.shares)
        self.nodes: int | None = None
        self.promised = 0.0  # tokens a second of the round by its best fixed length
        self.rate = 0.0  # the same as `choose` counts on it; where drafting is only tried, that of a plain step
        self._known: dict[int, tuple[Array, Array]] = {}
        self._deviations: dict[int, Deviation] = {}  # of the costs, by the size of the batch; see `_deviation`
        self._before: tuple[int, float] | None = None  # rows and relative seconds of the round before, if that drafted
        self._plain: deque[float] = deque(maxlen=WATCHED)  # relative seconds of the latest plain steps
        self._behind = 0  # tokens of each row that the drafter follows and has not observed yet; of new rows fewer
        self._saved = 0.0  # seconds that may be lost to a plain step where drafting pays
        self._resting: list[Sequence] = []  # they decode plainly until `_credit`, in seconds, reaches `_needed`
        self._credit = self._needed = self._earned = 0.0
        self._paying = 1.0  # share of the latest steps in which drafting paid

    def prepare(self, rows: int, sampled: bool) -> None:
        if len(self._plain) == self._plain.maxlen and np.median(self._plain) < STALE:
            self.costs.forget()
            self._deviations.clear()
            self._plain = deque(maxlen=4 * len(self._plain))
        self.costs.prepare(rows, sampled)
        self._known.clear()

    def choose(self, sequences: list[Sequence]) -> list[int]:
        if not any(sequence.generation.rounds for sequence in sequences):
            self._behind = 0  # all are new; what others left unread is gone with them
        if sequences == self._resting and self._credit < self._needed:
            self._credit += self._earned
            self._paying *= 1 - 1 / STEPS
            return self._rest(sequences)
        rows = len(sequences)
        rooms = np.array([self.history.room(sequence) if sequence.followed else 0 for sequence in sequences])
        gains = self.history.gains(sequences) * (rooms > 0)[:, None]
        order = np.argsort(-gains, axis=0, kind="stable")
        best_first = np.take_along_axis(gains, order, 0).cumsum(0)  # for the best 1, 2, ... rows
        plain, drafted = self._seconds(rows)
        longest = self._longest(rows)
        rates = ((rows + best_first) / drafted)[:, :longest]
        drafting, length = divmod(int(rates.argmax()), longest)
        lengths = np.minimum(length + 1, rooms)
        self.promised = float(rates[drafting, length])
        self.rate = self.promised * self.surplus
        gain = self.rate * plain / rows
        pays = gain > MARGIN
        self._paying += (pays - self._paying) / STEPS
        if pays:
            self._resting = []
            self._saved += COMPARING * float(drafted[drafting, length])
            if self._saved > (gain - 1) * plain:
                self._saved = 0.0
                return [0] * rows
            lengths[order[drafting + 1 :, length]] = 0
            return [int(n) for n in lengths]
        length, loss = self._trial(drafted[np.count_nonzero(rooms) - 1], plain, longest)
        unknown = any(sequence not in self.history.rows for sequence in sequences)
        self._needed = loss * (1 - self._paying) if unknown else loss
        if self._credit >= self._needed and rooms.max() > 0:
            self._credit -= loss
            self._resting, self.rate = [], rows / plain
            return [int(n) for n in np.minimum(length, rooms)]
        self._resting = list(sequences)
        self._earned = max(LOSS * plain - sum(s.followed for s in sequences) * self.costs.catch_up, LOSS * plain / 2)
        self._credit = min(self._credit + self._earned, loss)  # not more, if no row can draft for long
        return self._rest(sequences)

    def paying(self, draft: Draft) -> Draft:
        return draft

    @property
    def surplus(self) -> float:
        """Tokens a second of rounds that verify unequally much, divided by what rounds of one length promise."""
        return 1.0

    def nodes_of(self, row: int) -> Nodes | None:
        """Of the row's tree in this round."""
        return None

    def _trial(self, asked: Array, plain: float, longest: int) -> tuple[int, float]:
        """How much to draft to see whether it pays, and what is lost if it does not; asked [K] seconds of rounds."""
        hoped = 1 + (PRIOR ** np.arange(1, self.most + 1)).cumsum()
        length = int((hoped / asked)[:longest].argmax())
        return length + 1, max(0.0, float(asked[length]) - plain)

    def _longest(self, rows: int) -> int:
        """In a large batch one short draft of all rows tells enough, and a longer one may cost several plain steps."""
        known = self.history.seen[0] >= PRIOR_WEIGHT
        return self.most if known else min(self.most, max(1, FIRST // rows))

    def _rest(self, sequences: list[Sequence]) -> list[int]:
        """A plain step; before the drafter reads what it has not yet, the rows that cost too much are given up."""
        if self._behind == LATER - 1:
            plain, token = float(self._measured(len(sequences))[0][0]), self.costs.catch_up
            followed = [sequence for sequence in sequences if sequence.followed]
            followed.sort(key=self.history.rejection)
            for sequence in followed[int(KEEPING * plain / token) :] if token else ():
                sequence.followed = False
        return [0] * len(sequences)

    def learn(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        self._learn_costs(sequences, lengths, seconds)
        if not any(lengths):
            return
        for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            if length:
                self.history.add(sequence, length, sequence.generation.rounds[-1], self.nodes_of(row))
        self.history.update()

    def _learn_costs(self, sequences: list[Sequence], lengths: list[int], seconds: float) -> None:
        """A plain step is compared with the drafting round before it, so that the machine was equally busy in both."""
        relative, rows = seconds / self.expected(sequences, lengths), len(lengths)
        if any(lengths):
            self._before, self._behind = (rows, relative), 0
            return
        self._plain.append(relative)
        if self._before is not None and self._before[0] == rows:
            found = min(max(self._before[1] / relative, 1 / OUTLIER), OUTLIER)
            self._deviation(rows).add(found, 1.0)
        self._before, self._behind = None, (self._behind + 1) % LATER

    def expected(self, sequences: list[Sequence], lengths: list[int]) -> float:
        """Seconds of the newest round by the measured costs alone, when it drafted so many tokens for each row."""
        drafting = int(np.count_nonzero(lengths))
        if not drafting:
            return float(self._measured(len(lengths))[0][0])
        late = (
            sum(min(self._behind, len(s.generation.rounds) - 1) for s in sequences if s.followed) * self.costs.catch_up
        )
        return self._round(len(lengths), drafting, lengths) + late

    def _round(self, rows: int, drafting: int, lengths: list[int]) -> float:
        verified = self._verify(rows, np.array([max(lengths)]), np.array([sum(lengths) / rows]))
        return float(verified[0] + self._measured(rows)[1][drafting - 1, max(lengths)])

    def _verify(self, rows: int, longest: Array, mean: Array) -> Array:
        """Seconds of the target's step by how many drafted tokens the rows have at most and on average."""
        verify, padding = self._measured(rows)[0], self.costs.padding(rows)
        return step_seconds(verify, rows, longest, mean, padding)

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
        lengths, share = np.arange(1.0, self.most + 1), np.arange(1.0, rows + 1)[:, None] / rows
        verified = self._verify(rows, lengths, lengths * share)
        return float(verify[0]), self._deviation(rows).factor * (verified + draft[:, 1:])


def step_seconds(verify: Array, rows: int, longest: Array, mean: Array, padding: float | None) -> Array:
    """Of the target's step with at most `longest` and on average `mean` drafted tokens a row.

    verify [K+1]: with equally many. padding: of a place without a token; None: as much as a token.
    """
    places = np.arange(len(verify))
    if padding is None:
        return np.interp(longest, places, verify)
    found: Array = np.interp(mean, places, verify) + padding * rows * (longest - mean)
    return found


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
