"""The speculators format for DFlash, both ways; vLLM reads it, reduced draft vocabularies included.

Checked against vLLM 0.32 (`transformers_utils/configs/speculators/{base,algos}.py`) and speculators
(`models/dflash/config.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from .dflash_layout import native_config, understood
from .drafter_files import DrafterFiles, inside, only, write_drafter_files
from .target_side import TargetSide, needed
from .vllm import speculative_config

ELSEWHERE = (  # of the authors' layout: what this format says outside transformer_layer_config, or not at all
    *("architectures", "num_target_layers", "rope_theta", "rope_scaling", "is_neox_style"),
    *("block_size", "sample_from_anchor", "dflash_config"),
)
UNLIKE = {"projector_type": (None, "dflash"), "shift_label": (None, False), "sample_from_anchor": (None, False)}


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """Write the directory; returns what the user should know."""
    if source.kind != "dflash":
        raise UserError(f"the speculators format has no {source.kind} drafter; export --to vllm")
    if source.config.get("is_causal"):
        raise UserError("the speculators format does not say that blocks are causal; export --to vllm")
    target = needed(side, "the format names the target that it was trained for")
    native = native_config(source.config, source.directory)
    length, tensors = native["block_size"] - 1, dict(source.weights)
    config = {
        "architectures": ["DFlashSpeculator"],
        "speculators_model_type": "dflash",
        "speculators_config": {
            "algorithm": "dflash",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": length}],
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
        ids, d2t = source.draft_ids(), source.own["d2t"].long()
        head = target.head_rows(ids, tensors["fc.weight"])
        tensors |= {"d2t": d2t, "t2d": inside(d2t, native["vocab_size"]), "lm_head.weight": head}
        config["draft_vocab_size"] = len(ids)
    write_drafter_files(out, config, tensors)
    speculative = speculative_config(source.kind, out.name, source.length)
    return [f"vllm serve {target.location} --speculative-config '{speculative}'"]


def read(
    config: dict[str, Any], tensors: dict[str, Tensor], where: Path, side: TargetSide | None, assume: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """A configuration in this format as ours; the target says how many layers it has."""
    kind = config.get("speculators_model_type")
    if kind != "dflash":
        raise UserError(
            f"drafter {where} is a {kind} drafter in the speculators format; paradraft reads its dflash only"
        )
    for key, plain in UNLIKE.items():
        if config.get(key) not in plain:
            raise UserError(f"drafter {where}: {key} {config[key]!r} is not supported; train a drafter here")
    target = needed(side, "the speculators format does not say how many layers the target has").target
    only(config, ("transformer_layer_config", "block_size", "mask_token_id", "aux_hidden_state_layer_ids"), where)
    layer = dict(config["transformer_layer_config"])
    native = {
        **layer,
        "num_target_layers": len(target.layers),
        "block_size": config["block_size"],
        "target_hidden_size": config.get("target_hidden_size"),
        "sample_from_anchor": False,  # absent means so in this format
        "dflash_config": {
            "mask_token_id": config["mask_token_id"],
            "target_layer_ids": [i - 1 for i in config["aux_hidden_state_layer_ids"]],
        },
        "dtype": config.get("dtype") or layer.get("dtype") or str(tensors["fc.weight"].dtype).removeprefix("torch."),
    }
    return understood(native, where, assume)
