"""Which keys a query may see: a predicate, from which a dense mask (the oracle) or a flex block mask is made.

DFlash in training: keys are the S context positions of a row, then the slots of its blocks, block after block;
queries are the slots alone. A predicate takes index tensors (row, head, query, key) and broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

DENSE_ENTRIES = 2**26  # of a mask on a GPU; flex attention skips what is hidden in larger ones, but must be compiled


def dflash_predicate(anchors: Tensor, document_ids: Tensor, block_size: int, causal: bool = False) -> Predicate:
    """A query sees the context of its document strictly before its anchor, and its own block (causal: up to itself).

    anchors [B, A], document_ids [B, S].
    """
    context = document_ids.shape[1]
    anchor_documents = document_ids.gather(1, anchors)

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        block = query // block_size
        in_context = key < context
        position = torch.where(in_context, key, 0)
        own_document = document_ids[row, position] == anchor_documents[row, block]
        earlier = position < anchors[row, block]
        same_block = (key - context) // block_size == block
        if causal:
            same_block = same_block & (key - context <= query)
        return torch.where(in_context, earlier & own_document, same_block)

    return visible


def dense_mask(predicate: Predicate, rows: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """The predicate as a boolean mask [rows, 1, queries, keys]."""
    row = torch.arange(rows, device=device)[:, None, None, None]
    head = torch.zeros((), dtype=torch.long, device=device)
    query = torch.arange(queries, device=device)[None, None, :, None]
    key = torch.arange(keys, device=device)[None, None, None, :]
    return predicate(row, head, query, key)


@lru_cache(maxsize=1)
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@lru_cache(maxsize=1)
def _compiled_block_mask() -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True)


def attention_mask(predicate: Predicate, rows: int, queries: int, keys: int, device: torch.device) -> Any:
    """The dense mask, or a flex block mask on a GPU where that would be large."""
    if device.type != "cuda" or rows * queries * keys <= DENSE_ENTRIES:
        return dense_mask(predicate, rows, queries, keys, device)
    return _compiled_block_mask()(predicate, rows, None, queries, keys, device=device)


@dataclass(frozen=True)
class SharedKeys:
    """An additive mask [rows, 1, G * queries, keys] for G query heads a key head, taken as queries of that one head.

    So a GPU's fused kernels take a mask where heads share keys.
    """

    mask: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
    """Grouped-query attention, [rows, heads, queries, dim].

    `mask` from `attention_mask`, SharedKeys, or None: all visible.
    """
    if isinstance(mask, SharedKeys):
        together = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
        return F.scaled_dot_product_attention(together, key, value, attn_mask=mask.mask).reshape(query.shape)
    if mask is not None and not isinstance(mask, Tensor):
        attended: Tensor = _compiled_flex_attention()(query, key, value, block_mask=mask, enable_gqa=True)
        return attended
    if query.device.type == "cuda":  # with a mask no fused kernel there takes groups
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=query.device.type != "cuda")
