"""What an objective reads: the labels of blocks with the target's opinion of them, and a few numbers for each query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .token_losses import Opinion


@dataclass(frozen=True)
class Blocks:
    """Labels and more for N blocks of K queries; the drafter's hidden states come separately.

    labels, valid [N, K]; rows [N]: the sequence each block belongs to. With a reduced draft vocabulary, `vocabulary`
    [V_d] are its ids, and labels are draft ids, -1 for a token outside. The drafter cannot propose such a token, so
    neither it nor what follows it in its block is learned.

    If the objective needs the target: `gold` [N, K] is its probability of each label, `teacher` [P, V] its logits, and
    `teacher_rows` [N, K] the row of `teacher` for each query (any number at invalid ones). With `teacher_head`,
    `teacher` [P, H] holds the target's hidden states instead, and logits are made only for the chunk at hand.

    anchors [N]: positions in the sequence, ascending within it. starts [N]: where the answer begins that each anchor
    stands in. A walk along the anchors, or weights of them, need these.
    """

    labels: Tensor
    valid: Tensor
    rows: Tensor
    gold: Tensor | None = None
    teacher: Tensor | None = None
    teacher_rows: Tensor | None = None
    teacher_head: Callable[[Tensor], Tensor] | None = None
    vocabulary: Tensor | None = None
    anchors: Tensor | None = None
    starts: Tensor | None = None

    @property
    def learned(self) -> Tensor:
        """[N, K]: valid queries whose label, like all labels before it in the block, is in the draft vocabulary.

        The weights treat all others as invalid: in D-PACE's sums a label outside adds nothing, nor what follows it.
        """
        return self.valid & (self.labels >= 0).long().cumprod(-1).bool()

    def reduced(self, vocabulary: Tensor, to_draft: Tensor) -> Blocks:
        """These blocks in the ids of a draft vocabulary [V_d]; `to_draft` [V] maps the target's ids, -1: none."""
        return replace(self, labels=to_draft[self.labels], vocabulary=vocabulary)

    def __getitem__(self, part: slice) -> Blocks:
        of_blocks = ("labels", "valid", "rows", "gold", "teacher_rows", "anchors", "starts")
        given = {name: getattr(self, name) for name in of_blocks}
        return replace(self, **{name: value[part] for name, value in given.items() if value is not None})

    def opinion(self) -> Opinion | None:
        """The target's logits over the draft vocabulary, and which of them each of the M valid queries reads."""
        if self.teacher is None or self.teacher_rows is None:
            return None
        once, rows = self.teacher_rows[self.valid].unique(return_inverse=True)  # neighbouring blocks share positions
        asked = self.teacher[once]
        logits = asked if self.teacher_head is None else self.teacher_head(asked)
        if self.vocabulary is None:
            return Opinion(logits, rows)
        inside = logits[:, self.vocabulary]
        return Opinion(inside, rows, torch.exp(inside.float().logsumexp(-1) - logits.float().logsumexp(-1)))


class QueryTerms(NamedTuple):
    """What the objective needs of each of M valid queries; all but `losses` is detached.

    losses: the token loss and the drafter's own, 0 for a label outside the draft vocabulary. log_probs: of the labels,
    -inf outside. hits: 1 where the likeliest token is the label. overlaps: sum_v min(p, q), if the objective reads it.
    left_out: the target's probability outside the draft vocabulary. own: the drafter's own loss.
    """

    losses: Tensor
    log_probs: Tensor
    hits: Tensor
    overlaps: Tensor | None
    left_out: Tensor
    own: Tensor

    @staticmethod
    def joined(parts: Sequence[QueryTerms]) -> QueryTerms:
        columns = zip(*parts, strict=True)
        return QueryTerms._make(None if column[0] is None else torch.cat(column) for column in columns)


def to_blocks(values: Tensor, valid: Tensor) -> Tensor:
    """Put the [M] numbers into the valid places of [N, K], zero elsewhere."""
    return torch.zeros(valid.shape, device=values.device, dtype=values.dtype).masked_scatter(valid, values)
