"""Transformers' own DFlash assistant, for `generate(assistant_model=..., speculation_type="dflash")`.

Transformers 5.23 has one class for it, made for Muse Glimmer; its computation is DFlash's, so any target works. It sees
the target's last layer after the final norm, and the whole head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .drafter_files import DrafterFiles, write_drafter_files

NO_KIND = (
    "Transformers' DFlash assistant reads DFlash; a vanilla draft model is an assistant as it is, or after export "
    "--to published if it shares the target's embedding"
)
NO_ASSISTANT = "it has no assistant of this kind"
RENAMED = {"fc.weight": "encoder.fc.weight", "hidden_norm.weight": "encoder.output_norm_enc.weight"}
KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "layer_types"),
    *("hidden_act", "block_size", "dtype"),
)


def write(source: DrafterFiles, native: Mapping[str, Any], out: Path) -> list[str]:
    """From a DFlash drafter and its authors' configuration of it."""
    if native["is_causal"]:
        raise UserError("Transformers' assistant lets every slot see its whole block; this drafter's blocks are causal")
    if source.reduced:
        raise UserError("Transformers uses the target's whole head; a reduced draft vocabulary does not work there")
    layers = native["dflash_config"]["target_layer_ids"]
    if native["num_target_layers"] - 1 in layers:
        raise UserError(
            f"this drafter reads the target's last layer ({layers[-1]}) before its final norm, and Transformers gives "
            "it after: nearly nothing would be accepted; train one without that layer"
        )
    config = {
        "architectures": ["MuseGlimmerAssistantModel"],
        "model_type": "muse_glimmer_assistant",
        **{key: native[key] for key in KEYS},
        "sliding_window": native["max_position_embeddings"],
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "mask_token_id": native["dflash_config"]["mask_token_id"],
        "target_layer_ids": layers,
    }
    write_drafter_files(out, config, {RENAMED.get(name, name): tensor for name, tensor in source.weights.items()})
    return []
