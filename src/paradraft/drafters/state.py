"""What a drafter remembers of the sequences it drafts for: one slot each, the engine's own numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models import KeyValueSlots
from ..models.slots import resized

Consume = Callable[["DraftState", Sequence[int], Tensor, Tensor], None]


class DraftState:
    """Keys and values of consumed tokens in `cache`, and the newest committed tokens, which wait for the next draft.

    `pending` [slots, W, H] holds what the drafter reads of them, the first `counts` [slots] (on the host) of each slot:
    one forward then consumes them and drafts. `last_features` [slots, F]: what the drafter reads of the target's
    features of the newest token that has any; zeros before the first.
    """

    def __init__(self, cache: KeyValueSlots, pending: Tensor, last_features: Tensor) -> None:
        self.cache, self.pending, self.last_features = cache, pending, last_features
        self.counts = torch.zeros(len(pending), dtype=torch.long)

    def starts(self, slots: Sequence[int]) -> Tensor:
        """Committed tokens of each slot, consumed or pending, [rows] on the host."""
        return self.cache.lengths[list(slots)] + self.counts[list(slots)]

    def receive(self, slots: Sequence[int], inputs: Tensor, counts: Tensor, consume: Consume) -> None:
        """Let the first `counts` [rows] of `inputs` [rows, W, H] wait; `consume` what waited since no draft took it.

        A prompt is consumed at once: it belongs to the prefill, not to the first draft.
        """
        slots = list(slots)
        if self.counts[slots].any():
            consume(self, slots, *self.flush(slots))
        tokens = int(counts.max())
        if tokens > self.pending.shape[1] or not self.cache.lengths[slots].all():
            consume(self, slots, inputs, counts)
            return
        self.pending[slots, :tokens] = inputs[:, :tokens]
        self.counts[slots] = counts

    def with_last(self, slots: Sequence[int], features: Tensor, counts: Tensor) -> Tensor:
        """`last_features`, then `features` [rows, W, F]: [rows, 1 + W, F]; the last of the first `counts` is kept."""
        known = torch.cat((self.last_features[list(slots), None], features), dim=1)
        self.last_features[list(slots)] = known[torch.arange(len(counts)), counts]
        return known

    def flush(self, slots: Sequence[int], whole: bool = False) -> tuple[Tensor, Tensor]:
        """What waits, [rows, W, H], and how much of it counts, [rows]; whoever takes it consumes it.

        whole: with as much padding as ever, so that all drafts have one shape.
        """
        slots = list(slots)
        counts = self.counts[slots]
        self.counts[slots] = 0
        return self.pending[slots, : self.pending.shape[1] if whole else int(counts.max())], counts

    def release(self, slots: Sequence[int]) -> None:
        """Forget these sequences."""
        self.cache.release(slots)
        self.counts[list(slots)] = 0
        self.last_features[list(slots)] = 0

    def copy(self, source: int, slots: Sequence[int]) -> None:
        """Let `slots` go on from where `source` is."""
        self.cache.copy(source, slots)
        for tensor in (self.pending, self.counts, self.last_features):
            tensor[list(slots)] = tensor[source].clone()

    def resize(self, rows: int, capacity: int) -> None:
        """Room for at least so many sequences and for `capacity` tokens in each."""
        self.cache.resize(rows, capacity)
        rows = len(self.cache.lengths)
        self.pending, self.counts, self.last_features = (
            resized(tensor, rows) for tensor in (self.pending, self.counts, self.last_features)
        )


def lay_behind(inputs: Tensor, counts: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """`block` [rows, K, H] right behind the first `counts` [rows] of `inputs` [rows, W, H] of each row.

    Returns both, [rows, W + K, H], and the places [rows, K] of the block in it.
    """
    rows, steps, width = block.shape
    places = counts.to(block.device)[:, None] + torch.arange(steps, device=block.device)
    laid = torch.cat((inputs, block.new_zeros(rows, steps, width)), dim=1)
    return laid.scatter(1, places[..., None].expand(-1, -1, width), block), places
