"""Rows of unequally many tokens in one forward: the products see the tokens, attention sees padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Rows of unequally many tokens without their padding, which would cost as much as tokens do.

    shape: of the padded rows, (R, T). places [S]: where the tokens stand among their R * T places.
    """

    shape: tuple[int, int]
    places: Tensor

    @classmethod
    def of(cls, counts: Sequence[int], tokens: int, device: torch.device) -> Packing | None:
        """The first counts[r] of each row's `tokens` count; None: where all do, there is nothing to pack."""
        if min(counts) == tokens:
            return None
        places = [row * tokens + place for row, count in enumerate(counts) for place in range(count)]
        return cls((len(counts), tokens), torch.tensor(places, device=device))

    def pack(self, values: Tensor) -> Tensor:
        """[R, T, ...] -> [1, S, ...]"""
        return values.flatten(0, 1)[self.places][None]

    def pad(self, values: Tensor) -> Tensor:
        """[1, S, ...] -> [R, T, ...], zeros for padding."""
        rows, tokens = self.shape
        padded = values.new_zeros(rows * tokens, *values.shape[2:])
        return padded.index_copy_(0, self.places, values[0]).view(rows, tokens, *values.shape[2:])


@dataclass(frozen=True)
class TargetOutput:
    """`scores`: logits as they were computed, packed or not.

    features [rows, tokens, layers * hidden] (of width 0 without layers).
    """

    scores: Tensor
    features: Tensor
    packing: Packing | None = None

    @cached_property
    def logits(self) -> Tensor:
        """[rows, tokens, vocabulary]; of padding that was left out 0."""
        return self.scores if self.packing is None else self.packing.pad(self.scores)

    @cached_property
    def choices(self) -> Tensor:
        """The likeliest token after each, [rows, tokens]: what a greedy round needs, without padding all logits."""
        found = self.scores.argmax(-1)
        return found if self.packing is None else self.packing.pad(found)
