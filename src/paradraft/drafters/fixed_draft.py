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
    """Blocks in slots 0 to R-1 behind W tokens that wait, of which `counts` [R] count.

    `draft` is DFlash's `draft_block`, `sight` makes its mask of starts, places and `end`.
    inputs [R, block, H], context [R, W, H]: shaped but for R as `inputs` and `context` given. consumed [R]: tokens
    whose keys are there.
    """

    def __init__(
        self,
        draft: Callable[..., Tensor],
        sight: Callable[[Tensor, Tensor, int], SharedKeys],
        held: Sequence[Any],
        inputs: Tensor,
        context: Tensor,
        rows: int,
        end: int,
    ) -> None:
        self.draft, self.sight, self.held, self.end = draft, sight, held, end
        self.inputs, self.context = (like.new_zeros(rows, *like.shape[1:]) for like in (inputs, context))
        self.consumed, self.counts = torch.zeros(2, rows, dtype=torch.long, device=inputs.device).unbind()
        self.slots = torch.arange(rows, device=inputs.device)[:, None]
        self.recording: Recording | None = None

    def fill(self, inputs: Tensor, context: Tensor, consumed: Tensor, counts: Tensor, rows: Tensor | None) -> None:
        """`consumed` [R] and `counts` [rows] on the host; the others for the slots `rows`, None: all in order."""
        self.consumed.copy_(consumed)
        for held, given in ((self.inputs, inputs), (self.context, context), (self.counts, counts.to(inputs.device))):
            held.copy_(given) if rows is None else held.index_copy_(0, rows, given)

    def __call__(self) -> Outputs:
        (rows, pending), block = self.context.shape[:2], self.inputs.shape[1]
        places = self.consumed[:, None] + torch.arange(pending + block, device=self.consumed.device)
        starts = self.consumed + self.counts
        mask = self.sight(starts, places[:, pending:], self.end)

        def write(keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
            known = self.held[layer].write(keys, values, (self.slots, places))
            return known[0][:rows, :, : self.end], known[1][:rows, :, : self.end]

        hidden = self.draft(self.inputs, self.context, starts, places, mask, write)
        return hidden, hidden[..., :0]
