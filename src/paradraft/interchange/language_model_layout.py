"""Draft language models (PARD, PARD-2, vanilla) as whole Hugging Face directories with known fields only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from ..drafters.pard2 import PUBLISHED_PROJECTION, read_projection
from ..errors import UserError
from .drafter_files import (
    DrafterFiles,
    compare,
    copy_tokenizer,
    shares_embedding,
    write_drafter_files,
    write_projection,
)
from .layout import Foreign, Layout, Reader, Use, reduced, when
from .target_side import TargetSide, needed

PARD2_KEYS = ("pard2", "spd_type", "pard2_scale", "pard2_proj_bias", "pard2_target_dim", "pard2_target_layers")
OLDER = ("rope_theta", "rope_scaling", "torch_dtype")  # of files by Transformers 4, which 5 and engines still read
NEVER = ("mask_token_id",)  # vLLM would read it before pard_token


def write_language_model(
    source: DrafterFiles, out: Path, side: TargetSide | None, keys: tuple[str, ...] = ()
) -> list[str]:
    """The model with its own embedding and head, its tokenizer, `pard_token` if it has one, and these keys besides."""
    config, tensors = projected(source.config, keys), source.weights
    config |= older_rope(config)
    if source.shared:
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


def projected(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The fields that the model's class knows, those of the drafter's kind, and our own settings."""
    try:
        known = set(AutoConfig.for_model(config["model_type"]).to_dict()) | {"architectures", "head_dim", *OLDER}
    except (KeyError, ValueError):
        kind = config.get("model_type")
        raise UserError(
            f"Transformers does not know the model_type {kind!r} of config.json: update Transformers"
        ) from None
    kept = {key: value for key, value in config.items() if key in known and key not in NEVER}
    for key in ("pard_token", *keys):
        if key in config:
            kept[key] = config[key]
    own = {name: value for name, value in (config.get("paradraft") or {}).items() if name != "share_embedding"}
    return {**kept, **({"paradraft": own} if own else {})}


def older_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings also as Transformers 4 has them: engines that pin it would silently take a theta of 10,000.

    Nothing where they differ by the type of layer, which Transformers 4 has no general name for.
    """
    parameters = config.get("rope_parameters") or {}
    if "rope_theta" not in parameters:
        return {}
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": None if plain else scaling}


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


def write_pard2_vllm(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    return [
        *write_language_model(source, out, side),
        "it drafts independent of the target's features there: vLLM 0.32 and 0.33 have no use for the projection",
    ]


def write_pard2_published(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """With its projection in a pickle, as its authors have it."""
    notes, weight = write_language_model(source, out, side, PARD2_KEYS), read_projection(source.directory)
    torch.save({"target_proj.weight": weight}, out / PUBLISHED_PROJECTION)
    compare({"target_proj.weight": weight}, {"target_proj.weight": read_projection(out)}, out)
    return notes


def reader(keys: tuple[str, ...] = ()) -> Reader:
    """A reader of whole models that keeps these keys."""

    def read(found: Foreign) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
        if shares_embedding(found.config):
            raise UserError(f"{found.where} is one of paradraft's own directories: use it as it is")
        return projected(found.config, keys), dict(found.tensors), []

    return read


def carry_pard2(where: Path, out: Path) -> None:
    copy_tokenizer(where, out)
    write_projection(out, read_projection(where))


IGNORED = when(lambda facts: True, "drafts independent of the target's features (the projection is ignored)")
WHOLE = when(reduced, "drafts from the whole vocabulary, tokens included that it never learned")
NO_PARD = "it does not draft in parallel with a language model"
SGLANG_NO_PARD = "SGLang 0.5.23 does not draft in parallel with a language model (PARD); export --to vllm"
VLLM = Use("vllm", where=lambda facts: facts.shared, remarks=(WHOLE,))

PARD = Layout(
    reader(),
    write={"vllm": write_language_model, "sglang": SGLANG_NO_PARD, "published": write_language_model},
    engines={"vllm": VLLM, "sglang": NO_PARD, "llama.cpp": NO_PARD, "transformers": NO_PARD},
    carry=copy_tokenizer,
    vllm={"method": "draft_model", "parallel_drafting": True},
    mask=lambda config: config.get("pard_token"),
)
PARD2 = replace(
    PARD,
    read=reader(PARD2_KEYS),
    write={"vllm": write_pard2_vllm, "sglang": SGLANG_NO_PARD, "published": write_pard2_published},
    engines={**PARD.engines, "vllm": replace(VLLM, remarks=(IGNORED, WHOLE))},
    carry=carry_pard2,
)
VANILLA = Layout(
    reader(),
    write=dict.fromkeys(("vllm", "sglang", "published"), write_language_model),
    engines={
        "vllm": VLLM,
        "sglang": replace(VLLM, to="sglang"),
        "llama.cpp": Use("vllm", remarks=(WHOLE,), then=", then llama.cpp's convert_hf_to_gguf.py"),
        "transformers": replace(VLLM, to="published"),
    },
    carry=copy_tokenizer,
    vllm={"method": "draft_model"},
    sglang="STANDALONE",
)
