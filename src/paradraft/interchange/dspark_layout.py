"""DSpark's directory as DeepSpec and vLLM have it: what is written out, and what is understood on import.

Read in DeepSpec (`deepspec/modeling/dspark/qwen3/{config,modeling}.py`) and vLLM (`model_executor/models/
qwen3_dspark.py`). A block samples from the anchor, which their files leave unsaid: it follows from the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..drafters import DSpark
from ..errors import UserError
from . import dflash_layout, gguf, transformers
from .dflash_layout import TRITON, reader, write_for_vllm
from .drafter_files import DrafterFiles, only, write_drafter_files
from .layout import Facts, Foreign, Layout, Reader, Use, reduced
from .target_side import TargetSide, needed

HEADS = ("markov_rank", "markov_head_type", "enable_confidence_head")


def native_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """config.json for engines, from one of ours."""
    only(config, HEADS, where)
    kept = {
        "num_anchors": int(config.get("num_anchors") or 512),
        "confidence_head_with_markov": bool(config.get("confidence_head_with_markov")),
    }
    return dflash_layout.native_config({**config, **kept}, where, DSpark) | kept


def write_vllm(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    if source.config["markov_head_type"] != "vanilla":
        raise UserError(
            "vLLM reads DSpark's vanilla Markov head only, not the gated and recurrent ones; export --to published"
        )
    return write_for_vllm(source, native_config(source.config, source.directory), out, side)


def write_published(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """With copies of the target's embedding and head."""
    if source.reduced:
        raise UserError("DeepSpec publishes no reduced draft vocabulary; export --to vllm")
    config, like = native_config(source.config, source.directory), source.weights["fc.weight"]
    target = needed(side, "DeepSpec's own directories hold copies of its embedding and head")
    copies = {"embed_tokens.weight": target.embedding(like), "lm_head.weight": target.head_rows(None, like)}
    write_drafter_files(out, config, source.weights | copies)
    return []


def understood(found: Foreign) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours; what would draft otherwise is refused."""
    config = found.config
    if config.get("sample_from_anchor") is False:
        found.refuse("it says that slot 0 of a block drafts nothing, but DSpark's does; its layout cannot be told")
    if not config.get("markov_rank"):
        found.refuse("it has no Markov head: DeepSpec's DFlash, whose slots paradraft's DFlash does not have")
    notes = dflash_layout.check_features(found)
    dflash_layout.check_rest(found)
    return native_config({"dtype": config.get("torch_dtype", "bfloat16"), **config}, found.where), notes


def with_bias(read: Reader) -> Reader:
    """The same with a bias of the confidence head, which some files lack: it is zero."""

    def whole(found: Foreign) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
        config, tensors, notes = read(found)
        weight = tensors.get("confidence_head.proj.weight")
        if weight is not None:
            tensors.setdefault("confidence_head.proj.bias", weight.new_zeros(1))
        return config, tensors, notes

    return whole


def vanilla_only(facts: Facts) -> str:
    head = facts.config.get("markov_head_type")
    return "" if head == "vanilla" else f"it reads the vanilla Markov head only, this one is {head}"


LAYOUT = Layout(
    with_bias(reader(understood)),
    write={
        "vllm": write_vllm,
        "sglang": "paradraft has not checked how SGLang reads DSpark; export --to vllm",
        "gguf": gguf.UNWRITTEN,
        "published": write_published,
    },
    engines={
        "vllm": Use("vllm", where=reduced, reasons=(vanilla_only,), remarks=(TRITON,)),
        "sglang": "paradraft has not checked how it reads DSpark",
        "llama.cpp": "paradraft does not write DSpark for it",
        "transformers": transformers.NO_ASSISTANT,
    },
    vllm={"method": "dspark"},
    mask=lambda config: config.get("mask_token_id"),
)
