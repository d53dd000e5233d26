"""Key/value slots: a fixed buffer a layer, one slot a sequence, sequences come and go.

Token t of a sequence stands at place t of its slot. Taking back a rejected draft is keeping a shorter length: what lies
beyond is hidden by the attention mask and overwritten by the next write. Lengths are kept on the host, so that no
bookkeeping waits for a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

CUDA_STEP = 8  # a GPU's masks have as many keys as are a multiple of this; so have the buffers
Index = tuple[Tensor, Tensor]  # slots [rows, 1] and places in them [rows, tokens]


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, `[slots, heads, room, head_dim]`, allocated at the first write."""

    def __init__(self, owner: KeyValueSlots) -> None:
        super().__init__()
        self.owner: KeyValueSlots = weakref.proxy(owner)  # no cycle: buffers go with the last reference to their slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        heads, rows, room = key_states.shape[1], len(self.owner.lengths), self.owner.room
        self.keys = key_states.new_zeros(rows, heads, room, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, heads, room, value_states.shape[-1])
        self.is_initialized = True

    def write(self, key_states: Tensor, value_states: Tensor, index: Index | None = None) -> tuple[Tensor, Tensor]:
        """Put `[rows, heads, tokens, dim]` at the reserved places, or at `index`; the layer's whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            if index is None:
                self.owner.write(buffer, states)
            else:
                put(buffer, states, index)
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.write(key_states, value_states)
        return self.owner.reserved(keys), self.owner.reserved(values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.end, 0

    def get_seq_length(self) -> int:
        return self.owner.start

    def get_max_length(self) -> int:
        return self.owner.capacity


class KeyValueSlots(Cache):
    """`lengths` [slots], on the host, counts the committed tokens of every slot; it moves by `commit` and `release`.

    `reserve` announces that some slots are about to write tokens behind their own lengths; the model's forward then
    writes them, and `commit` says how many of them stay.
    """

    def __init__(self, layers: int, rows: int, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])
        self.capacity, self.device = capacity, torch.device(device)
        self.lengths = torch.zeros(rows, dtype=torch.long)
        self.slots: list[int] = []  # of the reservation, as all that follows
        self.start = self.end = 0  # the longest length before and after it
        self.rows: slice | Tensor = slice(0, 0)  # its slots as an index: a slice where they stand side by side
        self.runs: list[tuple[slice, slice, int]] = []  # its rows, by slots that stand side by side; see `runs_of`
        self._index: Index | None = None
        self.recorded: dict[Any, Any] = {}  # what holds addresses of the buffers and goes with them: see graphs.py

    @property
    def room(self) -> int:
        """Tokens that the buffers have room for."""
        step = CUDA_STEP if self.device.type == "cuda" else 1
        return -(-self.capacity // step) * step

    # --- a forward --------------------------------------------------------------------------------------------

    def reserve(self, slots: Sequence[int] | None, tokens: int, parents: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions [rows, tokens] of the coming tokens of `slots` (None: all) and what they see, [rows, tokens, end].

        A token sees what is committed and the tokens before it. With `parents` [rows, tokens] they are trees: index of
        the parent among the tokens, -1 for the first; a token sees its ancestors and stands at its depth.
        """
        starts = self.claim(slots, tokens).to(self.device)
        self.rows = as_index(self.slots, self.device)
        places, positions, visible = sight(starts, tokens, self.end, parents)
        alone = len(self.slots) == 1
        self._index = None if alone else (torch.tensor(self.slots, device=self.device)[:, None], places)
        return positions, visible

    def claim(self, slots: Sequence[int] | None, tokens: int) -> Tensor:
        """What of a reservation is known on the host; the committed lengths [rows] of its slots."""
        self.slots = list(range(len(self.lengths))) if slots is None else list(slots)
        lengths = self.lengths[self.slots]
        self.start = int(lengths.max())
        self.end = self.start + tokens
        if self.end > self.capacity:
            raise ValueError(f"the slots hold {self.capacity} tokens each, {self.end} were asked for")
        self.runs = runs_of(self.slots, (lengths + tokens).tolist())
        return lengths

    def write(self, buffer: Tensor, states: Tensor) -> None:
        """Put `states` [rows, heads, tokens, dim] at the reserved places of `buffer` [slots, heads, capacity, dim]."""
        if self._index is None:  # a single row: one contiguous copy
            buffer[self.slots[0], :, self.start : self.end] = states[0]
        else:
            put(buffer, states, self._index)

    def reserved(self, buffer: Tensor) -> Tensor:
        """The reserved slots of a buffer up to the longest: a view where they stand side by side, else a copy."""
        return buffer[self.rows, :, : self.end]

    def commit(self, counts: Tensor, path: Tensor | None = None) -> None:
        """Keep `counts` [rows] (on the host) of the tokens that were written last; the rest is forgotten.

        The first ones, or those that `path` [rows, P] names in order; their keys and values move to the front.
        """
        if path is not None and not torch.equal(path, torch.arange(path.shape[1], device=path.device).expand_as(path)):
            slots = torch.tensor(self.slots, device=self.device)[:, None]
            starts = self.lengths[self.slots].to(self.device)[:, None]
            places = starts + torch.arange(path.shape[1], device=self.device)
            for buffer in self._buffers():
                buffer[slots, :, places] = buffer[slots, :, starts + path]
        self.lengths[self.slots] += counts

    # --- sequences that come and go -----------------------------------------------------------------------------

    def release(self, slots: Sequence[int]) -> None:
        """Forget what these slots hold."""
        self.lengths[list(slots)] = 0

    def copy(self, source: int, slots: Sequence[int]) -> None:
        """Let `slots` hold what `source` holds."""
        length = int(self.lengths[source])
        for buffer in self._buffers():
            buffer[list(slots), :, :length] = buffer[source, :, :length]
        self.lengths[list(slots)] = length

    def resize(self, rows: int, capacity: int) -> None:
        """Make room for at least so many slots and for `capacity` tokens in each; what they hold stays."""
        rows = max(rows, len(self.lengths))
        if (rows, capacity) == (len(self.lengths), self.capacity):
            return
        self.capacity = capacity
        self.recorded.clear()
        for layer in self.layers:
            assert isinstance(layer, SlotLayer)
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = (resized(b, rows, self.room) for b in (layer.keys, layer.values))
        self.lengths = resized(self.lengths, rows)

    def _buffers(self) -> list[Tensor]:
        return [
            buffer
            for layer in self.layers
            if isinstance(layer, SlotLayer) and layer.keys is not None and layer.values is not None
            for buffer in (layer.keys, layer.values)
        ]


def sight(starts: Tensor, tokens: int, end: int, parents: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Places [rows, tokens] behind `starts` [rows], positions [rows, tokens], and what is seen, [rows, tokens, end].

    `parents` as in `reserve`. Nothing here waits for a GPU or depends on values: a CUDA graph may hold it.
    """
    places = starts[:, None] + torch.arange(tokens, device=starts.device)
    seen = torch.arange(end, device=starts.device)
    if parents is None:
        return places, places, seen <= places[..., None]
    family = ancestors(parents)
    visible = (seen < starts[:, None, None]).expand(-1, tokens, -1).clone()
    visible.scatter_(2, places[:, None].expand(-1, tokens, -1), family)
    return places, starts[:, None] + family.sum(-1) - 1, visible


def put(buffer: Tensor, states: Tensor, index: Index) -> None:
    """`states` [rows, heads, tokens, dim] into `buffer` [slots, heads, room, dim]."""
    slots, places = index
    buffer[slots, :, places] = states.transpose(1, 2)


def as_index(slots: list[int], device: torch.device) -> slice | Tensor:
    """A slice of slots that stand side by side in order, which gives views; else their numbers."""
    if slots == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return torch.tensor(slots, device=device)


def runs_of(slots: list[int], ends: list[int]) -> list[tuple[slice, slice, int]]:
    """Rows whose slots stand side by side: (rows, their slots, the longest of their `ends`)."""
    breaks = [row for row in range(1, len(slots)) if slots[row] != slots[row - 1] + 1]
    return [
        (slice(first, last), slice(slots[first], slots[last - 1] + 1), max(ends[first:last]))
        for first, last in zip([0, *breaks], [*breaks, len(slots)], strict=True)
    ]


def ancestors(parents: Tensor) -> Tensor:
    """[rows, N, N] boolean: which nodes are a node's ancestors or itself; parents [rows, N] stand before children."""
    rows, nodes = parents.shape
    family = torch.eye(nodes, dtype=torch.bool, device=parents.device).repeat(rows, 1, 1)
    up = parents.clamp(min=0)  # the first node is its own parent
    for _ in range((nodes - 1).bit_length()):  # twice as many generations each time
        family = family | family.gather(1, up[..., None].expand(-1, -1, nodes))
        up = up.gather(1, up)
    return family


def resized(tensor: Tensor, rows: int, capacity: int | None = None) -> Tensor:
    """`tensor` [slots, ...] with more slots, or [slots, heads, capacity, dim] with another capacity; zeros behind."""
    shape = [rows, *tensor.shape[1:]]
    if capacity is not None:
        shape[2] = capacity
        tensor = tensor[:, :, :capacity]
    fitting = tensor.new_zeros(shape)
    held = fitting[: len(tensor)] if capacity is None else fitting[: len(tensor), :, : tensor.shape[2]]
    held.copy_(tensor)
    return fitting
