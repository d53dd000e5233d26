"""DSpark's directory as DeepSpec and vLLM have it: what is written out, and what is understood on import.

Read in DeepSpec (`deepspec/modeling/dspark/qwen3/{config,modeling}.py`) and vLLM (`model_executor/models/
qwen3_dspark.py`). A block samples from the anchor, which their files leave unsaid: it follows from the architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from . import dflash_layout
from .dflash_layout import Foreign
from .drafter_files import DrafterFiles, only, write_drafter_files
from .target_side import TargetSide, needed

HEADS = ("markov_rank", "markov_head_type", "enable_confidence_head")


def native_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """config.json for engines, from one of ours: DFlash's with its inner object at top level, and the heads."""
    inner = {key: config[key] for key in ("mask_token_id", "target_layer_ids")}
    found = dflash_layout.native_config({**config, "dflash_config": inner, "is_causal": False}, where)
    del found["dflash_config"]
    return {
        **found,
        **inner,
        "architectures": ["Qwen3DSparkModel"],
        "sample_from_anchor": True,
        "num_anchors": int(config.get("num_anchors") or 512),
        **only(config, HEADS, where),
        "confidence_head_with_markov": bool(config.get("confidence_head_with_markov")),
        **({"paradraft": config["paradraft"]} if "paradraft" in config else {}),
    }


def write(source: DrafterFiles, out: Path, side: TargetSide | None, copies: bool = False) -> None:
    """The directory; with a reduced vocabulary it has its rows of the target's head, with `copies` all of it."""
    config, tensors = native_config(source.config, source.directory), dict(source.weights)
    like = tensors["fc.weight"]
    if source.reduced:
        ids = source.draft_ids()
        head = needed(side, "the rows of its head that a reduced draft vocabulary uses are written out")
        tensors |= {"d2t": source.own["d2t"].long(), "lm_head.weight": head.head_rows(ids, like)}
        config["draft_vocab_size"] = len(ids)
    elif copies:
        target = needed(side, "DeepSpec's own directories hold copies of its embedding and head")
        tensors |= {"embed_tokens.weight": target.embedding(like), "lm_head.weight": target.head_rows(None, like)}
    write_drafter_files(out, config, tensors)


def understood(config: Mapping[str, Any], where: Path, assume: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours; what would draft otherwise is refused."""
    found = Foreign(config, where, assume)
    if config.get("sample_from_anchor") is False:
        found.refuse("it says that slot 0 of a block drafts nothing, but DSpark's does; its layout cannot be told")
    if any(found.said("is_causal", "causal")) or set(config.get("layer_types") or ()) - {"full_attention"}:
        found.refuse("it has causal blocks or sliding-window layers, which paradraft's DSpark does not have")
    if not config.get("markov_rank"):
        found.refuse("it has no Markov head: DeepSpec's DFlash, whose slots paradraft's DFlash does not have")
    notes = dflash_layout.check_features(found)
    dflash_layout.check_rest(found)
    own = dict(config)
    own.setdefault("dtype", config.get("torch_dtype", "bfloat16"))
    return native_config(own, where), notes
