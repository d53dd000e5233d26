"""A ragged key/value cache: every row has its own length, and a row's slot number is its token's position.

Rolling back is assigning a shorter length: what lies beyond is hidden by the attention mask and overwritten by
the next write. Nothing is shifted, copied or padded on the left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class RaggedLayer(CacheLayerMixin):
    """Keys and values of one layer, `[rows, heads, capacity, head_dim]`, allocated at the first write."""

    def __init__(self, owner: RaggedCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, _ = key_states.shape
        capacity = self.owner.capacity
        self.keys = key_states.new_zeros(rows, heads, capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, heads, capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.owner.write(self.keys, key_states)
        self.owner.write(self.values, value_states)
        end = self.owner.visible
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.visible, 0

    def get_seq_length(self) -> int:
        return self.owner.longest

    def get_max_length(self) -> int:
        return self.owner.capacity


class RaggedCache(Cache):
    """Per-row lengths over one fixed buffer a layer.

    `lengths` [rows] counts the committed tokens. `reserve(t)` announces that every row is about to write `t`
    tokens behind its own length; the model's forward then writes them; `lengths` moves only by `commit`.
    """

    def __init__(self, layers: int, rows: int, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__(layers=[RaggedLayer(self) for _ in range(layers)])
        self.capacity = capacity
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.longest = 0  # max(lengths), kept on the host so that slicing needs no device synchronisation
        self.visible = 0
        self._positions = torch.empty(0)
        self._even = True

    def reserve(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Positions `[rows, tokens]` of the coming tokens and which slots they see, `[rows, tokens, visible]`."""
        if self.longest + tokens > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens a row, {self.longest + tokens} were asked for")
        self.visible = self.longest + tokens
        self._even = len(self.lengths) == 1
        steps = torch.arange(tokens, device=self.lengths.device)
        self._positions = self.lengths[:, None] + steps
        slots = torch.arange(self.visible, device=self.lengths.device)
        return self._positions, slots <= self._positions[..., None]

    def write(self, buffer: Tensor, states: Tensor) -> None:
        """Put `states` [rows, heads, tokens, dim] at the reserved positions of `buffer`."""
        if self._even:  # a single row: one contiguous copy
            buffer[:, :, self.longest : self.visible] = states
            return
        index = self._positions[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        buffer.scatter_(2, index, states)

    def commit(self, tokens: Tensor) -> None:
        """Keep the first `tokens` [rows] of what was written last; the rest is forgotten."""
        self.set_lengths(self.lengths + tokens)

    def set_lengths(self, lengths: Tensor) -> None:
        """Truncate (or extend within what was written) every row to `lengths` [rows]."""
        self.lengths = lengths
        self.longest = int(lengths.max()) if len(lengths) else 0

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        for layer in self.layers:
            assert isinstance(layer, RaggedLayer)
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        self.set_lengths(self.lengths[rows])
