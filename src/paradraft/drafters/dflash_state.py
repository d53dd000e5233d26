"""What DFlash remembers while it drafts: the keys and values of the committed text, ragged over rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import DraftState


class DFlashState(DraftState):
    """Context keys and values of every layer, [rows, key_value_heads, capacity, dim], and their lengths [rows].

    The context [rows, W, H] of the newest committed tokens waits, `counts` [rows] of it, for the next draft: one
    product makes keys and values of it and of the block.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        table: tuple[Tensor, Tensor],
        waiting: Tensor,
        lengths: Tensor,
    ) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths
        self.table = table  # cos and sin [1, 1, capacity, dim] of every position
        self.waiting, self.counts = waiting, torch.zeros_like(lengths)
        self.longest = 0

    @property
    def starts(self) -> Tensor:
        """Where each row's next block begins, [rows]."""
        return self.lengths + self.counts

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, T, dim] of positions [rows, T]."""
        cos, sin = self.table
        return cos[0, 0, positions][:, None], sin[0, 0, positions][:, None]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put [rows, heads, W + T, dim] behind each row's context: what waits, then a block of T, unaccounted for."""
        tokens, waiting = keys.shape[2], self.waiting.shape[1]
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if len(self.lengths) == 1:  # nothing is ragged
                buffer[:, :, self.longest : self.longest + tokens] = new
                continue
            write_behind(buffer, self.lengths, new[:, :, :waiting])
            write_behind(buffer, self.starts, new[:, :, waiting:])  # over what was not committed

    def wait(self, context: Tensor, counts: Tensor) -> None:
        """The first `counts` [rows] of `context` [rows, W, H] wait for the next draft."""
        if len(counts) == 1:
            context = context[:, : int(counts)]
        self.waiting, self.counts = context, counts

    def settle(self) -> None:
        """What waited has been written."""
        self.lengths = self.starts
        self.longest = int(self.lengths.max())
        self.waiting, self.counts = self.waiting[:, :0], torch.zeros_like(self.counts)

    def keep_rows(self, rows: Tensor) -> None:
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]
        self.wait(self.waiting[rows], self.counts[rows])
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max()) if len(rows) else 0


def write_behind(buffer: Tensor, lengths: Tensor, new: Tensor) -> None:
    """Put `new` [rows, heads, T, dim] into `buffer` at slots lengths..lengths+T-1 of each row."""
    slots = lengths[:, None] + torch.arange(new.shape[2], device=lengths.device)
    buffer.scatter_(2, slots[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3]), new)
