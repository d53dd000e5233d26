"""The speculators format for DFlash, both ways; vLLM reads it, reduced draft vocabularies included.

Checked against vLLM 0.32 (`transformers_utils/configs/speculators/{base,algos}.py`) and speculators
(`models/dflash/config.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..drafters.directory import dtype_name
from ..errors import UserError
from .drafter_files import DrafterFiles, inside, only, write_drafter_files
from .layout import Foreign
from .target_side import TargetSide, needed, reduced_head

NO_KIND = "the speculators format has no {kind} drafter; export --to vllm"
ELSEWHERE = (  # of the authors' layout: what this format says outside transformer_layer_config, or not at all
    *("architectures", "num_target_layers", "rope_theta", "rope_scaling", "is_neox_style"),
    *("block_size", "sample_from_anchor", "dflash_config"),
)


def write(source: DrafterFiles, native: Mapping[str, Any], out: Path, side: TargetSide | None) -> list[str]:
    """From a DFlash drafter and its authors' configuration of it."""
    if native["is_causal"]:
        raise UserError("the speculators format does not say that blocks are causal; export --to vllm")
    target = needed(side, "the format names the target that it was trained for")
    tensors = source.weights
    config = {
        "architectures": ["DFlashSpeculator"],
        "speculators_model_type": "dflash",
        "speculators_config": {
            "algorithm": "dflash",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": source.length}],
            "verifier": {"name_or_path": target.location, "architectures": target.architectures},
        },
        "transformer_layer_config": {key: value for key, value in native.items() if key not in ELSEWHERE},
        "draft_vocab_size": native["vocab_size"],
        "target_hidden_size": native["hidden_size"],
        "block_size": native["block_size"],
        "mask_token_id": native["dflash_config"]["mask_token_id"],
        "aux_hidden_state_layer_ids": [i + 1 for i in native["dflash_config"]["target_layer_ids"]],
        "sliding_window_non_causal": True,  # without it vLLM may run the block causally
        "sample_from_anchor": False,
        "projector_type": "dflash",
        "shift_label": False,
        "tie_word_embeddings": False,
        "dtype": native["dtype"],
    }
    if source.reduced:
        tensors = tensors | reduced_head(source, target)
        tensors["t2d"] = inside(tensors["d2t"], native["vocab_size"])
        config["draft_vocab_size"] = len(tensors["d2t"])
    write_drafter_files(out, config, tensors)
    return []


def recognised(config: Mapping[str, Any]) -> bool:
    return "speculators_model_type" in config


def read(found: Foreign) -> dict[str, Any]:
    """A configuration in this format as DFlash's authors write it; the target says how many layers it has."""
    config, where = found.config, found.where
    kind = config["speculators_model_type"]
    if kind != "dflash":
        raise UserError(
            f"drafter {where} is a {kind} drafter in the speculators format; paradraft reads its dflash only"
        )
    target = needed(found.side, "the speculators format does not say how many layers the target has").target
    only(config, ("transformer_layer_config", "block_size", "mask_token_id", "aux_hidden_state_layer_ids"), where)
    layer = dict(config["transformer_layer_config"])
    return {
        **layer,
        "num_target_layers": len(target.layers),
        "block_size": config["block_size"],
        "target_hidden_size": config.get("target_hidden_size"),
        "sample_from_anchor": bool(config.get("sample_from_anchor")),  # absent: it does not, in this format
        "shift_label": config.get("shift_label"),
        "dflash_config": {
            "projector_type": config.get("projector_type"),
            "mask_token_id": config["mask_token_id"],
            "target_layer_ids": [i - 1 for i in config["aux_hidden_state_layer_ids"]],
        },
        "dtype": config.get("dtype") or layer.get("dtype") or dtype_name(found.tensors["fc.weight"]),
    }
