"""What llama.cpp calls the parts of a drafter: the keys and tensors of architectures `dflash` and `eagle3`.

Checked against llama.cpp's `src/models/dflash.cpp`, `src/models/eagle3.cpp` and its converters in `conversion/`; read,
not run. Target layers are named by their *input*, so they count one more than our layer outputs; `d2t` holds the
target's ids themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..drafters.eagle3_config import LAYER_KEY
from ..errors import UserError
from . import eagle3_layout
from .dflash_layout import native_config
from .drafter_files import DrafterFiles
from .target_side import TargetSide

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
DFLASH = LAYER | {"fc": "fc", "hidden_norm": "enc.output_norm", "norm": "output_norm"}
EAGLE3 = LAYER | {"fc": "fc", "hidden_norm": "attn_norm_2", "norm": "output_norm", "lm_head": "output"}
EAGLE3_LAYERS = 3


@dataclass(frozen=True)
class Layout:
    """architecture, keys without the tokenizer's, tensors, and how many tokens are drafted."""

    architecture: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: int
    length: int


def dflash(source: DrafterFiles, target: TargetSide) -> Layout:
    """With a reduced vocabulary, its rows of the target's head go with it."""
    if source.config.get("is_causal"):
        raise UserError("llama.cpp's DFlash lets every slot see its whole block; this drafter's blocks are causal")
    native = native_config(source.config, source.directory)
    inner = native["dflash_config"]
    fields = sizes("dflash", native) | {
        "general.name": "DFlash drafter",
        "dflash.attention.causal": False,
        "dflash.block_size": native["block_size"],
        "dflash.sample_from_anchor": False,
        "dflash.target_layers": [i + 1 for i in inner["target_layer_ids"]],
        "tokenizer.ggml.mask_token_id": inner["mask_token_id"],
    }
    tensors = {gguf_name(name, DFLASH): tensor for name, tensor in source.weights.items()}
    if source.reduced:
        ids = source.draft_ids()
        tensors |= {"d2t": ids, "output.weight": target.head_rows(ids, tensors["fc.weight"])}
    return Layout("dflash", fields, tensors, native["vocab_size"], native["block_size"] - 1)


def eagle3(source: DrafterFiles, target: TargetSide) -> Layout:
    """With its own head; the embedding is the target's. `extract_layers` is what older readers call `target_layers`."""
    native = eagle3_layout.native_config(source.config, source.directory)
    layers = native[LAYER_KEY]
    if len(layers) != EAGLE3_LAYERS:
        raise UserError(
            f"llama.cpp's EAGLE-3 reads {EAGLE3_LAYERS} layers of the target; this drafter reads {len(layers)}"
        )
    fields = sizes("eagle3", native) | {
        "general.name": "EAGLE-3 drafter",
        "eagle3.target_layers": layers,
        "eagle3.extract_layers": layers,
        "eagle3.norm_before_residual": native["norm_before_residual"],
        "eagle3.norm_before_fc": False,
    }
    heads = {"q_proj": native["num_attention_heads"], "k_proj": native["num_key_value_heads"]}
    tensors = {}
    for name, tensor in source.weights.items():
        rotary = next((count for part, count in heads.items() if f"self_attn.{part}." in name), None)
        there = gguf_name(name.replace("midlayer.", "layers.0."), EAGLE3)
        tensors[there] = tensor if rotary is None else interleaved(tensor, rotary)
    if source.reduced:
        tensors["d2t"] = source.draft_ids()
    return Layout("eagle3", fields, tensors, native["vocab_size"], source.length)


LAYOUTS = {"dflash": dflash, "eagle3": eagle3}


def gguf_name(name: str, names: Mapping[str, str]) -> str:
    """`layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight` there."""
    found = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.weight", name)
    if found is None or found[2] not in names:
        raise UserError(f"tensor {name} is not one that llama.cpp has in a drafter of this kind")
    return (f"blk.{found[1]}." if found[1] else "") + names[found[2]] + ".weight"


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Query or key weights [heads * dim, H] for rotations of neighbours: in a head, rows i and i + dim/2 side by side.

    llama.cpp rotates EAGLE-3 in this way, and DFlash as we do, by halves.
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def sizes(architecture: str, native: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that both readers take; what they would guess is explicit."""
    keys = {
        "block_count": native["num_hidden_layers"],
        "context_length": native["max_position_embeddings"],
        "embedding_length": native["hidden_size"],
        "feed_forward_length": native["intermediate_size"],
        "vocab_size": native["vocab_size"],
        "attention.head_count": native["num_attention_heads"],
        "attention.head_count_kv": native["num_key_value_heads"],
        "attention.key_length": native["head_dim"],
        "attention.value_length": native["head_dim"],
        "attention.layer_norm_rms_epsilon": float(native["rms_norm_eps"]),
        "rope.freq_base": native["rope_theta"],
        "rope.dimension_count": native["head_dim"],
        "target_hidden_size": native["hidden_size"],
    }
    return {"general.type": "model"} | {f"{architecture}.{key}": value for key, value in keys.items()}
