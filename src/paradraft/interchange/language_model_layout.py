"""Draft language models (PARD, PARD-2, vanilla) as whole Hugging Face directories with known fields only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from .drafter_files import DrafterFiles, copy_tokenizer, write_drafter_files
from .target_side import TargetSide, needed

PARD2_KEYS = ("pard2", "spd_type", "pard2_scale", "pard2_proj_bias", "pard2_target_dim", "pard2_target_layers")
NEVER = ("mask_token_id",)  # vLLM would read it before pard_token


def write_language_model(
    source: DrafterFiles, out: Path, side: TargetSide | None, keys: tuple[str, ...] = ()
) -> list[str]:
    """The model with its own embedding and head, its tokenizer, `pard_token` if it has one, and these keys besides."""
    config, tensors = projected(source, keys), source.weights
    if source.shares_embedding:
        given = targets_embedding(source, needed(side, "this drafter shares the target's embedding"))
        config["tie_word_embeddings"] = "lm_head.weight" not in given
        tensors = tensors | given
    write_drafter_files(out, config, tensors)
    copy_tokenizer(source.directory, out)
    if not source.reduced:
        return []
    return [
        f"it was trained to draft {len(source.own['d2t'])} tokens; the exported model drafts from all of them, those "
        "included that it never learned (output stays the target's own, acceptance may differ slightly)"
    ]


def projected(source: DrafterFiles, keys: tuple[str, ...]) -> dict[str, Any]:
    """The fields that the model's class knows, those of the drafter's kind, and our own settings."""
    config = source.config
    known = set(AutoConfig.for_model(config["model_type"]).to_dict()) | {"architectures", "head_dim"}
    kept = {key: value for key, value in config.items() if key in known and key not in NEVER}
    for key in ("pard_token", *keys):
        if key in config:
            kept[key] = config[key]
    own = {name: value for name, value in (config.get("paradraft") or {}).items() if name != "share_embedding"}
    return {**kept, **({"paradraft": own} if own else {})}


def targets_embedding(source: DrafterFiles, side: TargetSide) -> dict[str, Tensor]:
    """The target's embedding with the row of the mask replaced, and its head where that is not the same matrix."""
    like = next(iter(source.weights.values()))
    embedding = side.embedding(like)
    mask = source.own.get("mask_embedding")
    if mask is not None:
        embedding = embedding.to(torch.promote_types(embedding.dtype, mask.dtype))
        embedding[source.config["pard_token"]] = mask.to(embedding.dtype)
    elif side.tied:
        return {"model.embed_tokens.weight": embedding}
    return {"model.embed_tokens.weight": embedding, "lm_head.weight": side.head_rows(None, like)}
