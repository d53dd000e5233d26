"""DFlash's draft with everything that changes at fixed addresses: what a CUDA graph records, see models/graphs.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.graphs import Outputs, Recording
from .attention import SharedKeys

Write = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class FixedDraft:
    """Blocks of `block` slots in slots 0 to R-1 behind W tokens that wait, of which `counts` [R] count.

    `draft` is DFlash's `draft_block`, `sight` makes its mask of starts, places and `end`.
    read: anchors [R], newest [R, H or 0] and context [R, W, H]. consumed [R]: tokens whose keys are there.
    """

    def __init__(
        self,
        draft: Callable[..., Tensor],
        sight: Callable[[Tensor, Tensor, int], SharedKeys],
        held: Sequence[Any],
        like: Sequence[Tensor],
        rows: int,
        block: int,
        end: int,
    ) -> None:
        self.draft, self.sight, self.held, self.block, self.end = draft, sight, held, block, end
        self.read = tuple(each.new_zeros(rows, *each.shape[1:]) for each in like)
        self.consumed, self.counts = torch.zeros(2, rows, dtype=torch.long, device=like[0].device).unbind()
        self.slots = torch.arange(rows, device=like[0].device)[:, None]
        self.recording: Recording | None = None

    def fill(self, read: Sequence[Tensor], consumed: Tensor, counts: Tensor, rows: Tensor | None) -> None:
        """`consumed` [R] and `counts` [rows] on the host; the others for the slots `rows`, None: all in order."""
        self.consumed.copy_(consumed)
        given_counts = counts.to(self.counts.device)
        for held, given in ((self.counts, given_counts), *zip(self.read, read, strict=True)):
            held.copy_(given) if rows is None else held.index_copy_(0, rows, given)

    def __call__(self) -> Outputs:
        rows, pending = self.read[-1].shape[:2]
        places = self.consumed[:, None] + torch.arange(pending + self.block, device=self.consumed.device)
        starts = self.consumed + self.counts
        mask = self.sight(starts, places[:, pending:], self.end)

        def write(keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
            known = self.held[layer].write(keys, values, (self.slots, places))
            return known[0][:rows, :, : self.end], known[1][:rows, :, : self.end]

        hidden = self.draft(*self.read, starts, places, mask, write)
        return hidden, hidden[..., :0]
