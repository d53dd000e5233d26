"""What the layers of a decoder attend to: whole sequences kept apart, sliding windows, and what is refused.

A sliding-window layer keeps all keys and values, as every layer does here, so a rejected draft is taken back as
anywhere else; the window is a mask over them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import UserError
from .chat import context_length_of

FULL, SLIDING = "full_attention", "sliding_attention"  # what Transformers calls the types of layers
UNSTABLE_ROPE = ("dynamic", "longrope")


def document_attention(document_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, S] counted within each document, and visibility [B, S, S]: causal, same document.

    Padding (id < 0) sees the padding before it, so that no row of the mask is empty.
    """
    same = document_ids[:, :, None] == document_ids[:, None, :]
    visible = same.tril()
    return visible.sum(-1) - 1, visible


def document_positions(document_ids: Tensor) -> Tensor:
    """Positions [B, S] counted within each document; the tokens of a document stand together."""
    slots = torch.arange(document_ids.shape[1], device=document_ids.device).expand(document_ids.shape)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return slots - torch.where(starts, slots, 0).cummax(1).values


def layer_masks(visible: Tensor, config: Any, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Additive masks [R, 1, T, keys] of `visible` [R, T, keys]: one, or one by type where a model mixes its layers."""
    window = sliding_window(config)
    if window is None:
        return additive(visible, dtype)
    seen = newest(visible, window)
    if not getattr(config, "layer_types", None):
        return additive(seen, dtype)
    return {FULL: additive(visible, dtype), SLIDING: additive(seen, dtype)}


def newest(visible: Tensor, count: int) -> Tensor:
    """Of the keys that each query sees only the last `count`, its own among them.

    What a query sees are the tokens at positions 0, 1, ... up to its own, in order, whatever stands between them: other
    documents, or siblings in a tree of drafts. Counting them is therefore counting positions.
    """
    if visible.shape[-1] <= count:
        return visible
    behind = visible.sum(-1, keepdim=True) - visible.cumsum(-1)
    return visible & (behind < count)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen and the lowest number of `dtype` elsewhere, [R, 1, T, keys]."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def sliding_window(config: Any) -> int | None:
    """How many keys a sliding-window layer sees, its own included; None where every layer sees the whole context."""
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = SLIDING in types if types else getattr(config, "use_sliding_window", True)
    return int(window) if window and slides and window < context_length_of(config) else None


def attention_implementation(config: Any) -> dict[str, str]:
    """Attention soft caps exist only in the eager implementation; the rest is Transformers' choice, fused if it can."""
    softcapped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return {"attn_implementation": "eager"} if softcapped else {}


def refuse_unsupported(config: Any, model: PreTrainedModel | None, name: str) -> None:
    """UserError for layers whose memory cannot be rolled back, and for positions that depend on the whole batch."""
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - {FULL, SLIDING})
    if unknown or getattr(model, "_is_stateful", False):
        kind = f"{unknown[0]} layers" if unknown else "recurrent layers"
        raise UserError(
            f"{name} has {kind}; a recurrent state cannot take back the tokens of a rejected draft, so choose a model "
            "whose layers all have full or sliding-window attention"
        )
    rope = next((kind for kind in rope_types(config) if kind in UNSTABLE_ROPE), None)
    if rope is not None:
        raise UserError(
            f"{name} has rotary positions of type {rope}, whose frequencies follow the longest text of a batch, so a "
            "draft or a neighbour would change what it writes; choose a model with another type"
        )


def rope_types(config: Any) -> list[str]:
    """The types of rotary positions in a configuration, which has one or one for each type of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [str(part.get("rope_type")) for part in (found, *found.values()) if isinstance(part, dict)]
