"""EAGLE-3's directory as vLLM, SGLang and its authors have it: what is written out, and what is understood on import.

Checked against vLLM 0.32 (`model_executor/models/llama_eagle3.py`, `v1/spec_decode/eagle.py`) and SGLang 0.5.23
(`srt/models/llama_eagle3.py`, read). Feature layers are counted in two ways: a list at top level holds indices of
Transformers' hidden_states, one in `eagle_config` what SGLang adds one to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..drafters import Eagle3
from ..drafters.directory import check_rope
from ..drafters.eagle3_config import LAYER_KEY, published_layers
from ..errors import UserError
from . import gguf, transformers
from .drafter_files import DrafterFiles, engine_config, inside, write_drafter_files
from .layout import PLAIN, Facts, Foreign, Layout, Use
from .target_side import TargetSide, needed

UNLIKE = {  # of config.json: what changes nothing
    **PLAIN,
    "num_hidden_layers": (1,),
    "mlp_bias": (None, False),
    "norm_before_fc": (None, False),
    "fc_norm": (None, False),
    "norm_output": (None, False),
    "parallel_drafting": (None, False),
}


def native_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """config.json for engines, from one of ours."""
    return engine_config(Eagle3, config, where) | {"draft_vocab_size": config["draft_vocab_size"]}


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """The directory that vLLM, SGLang and EAGLE's own code read; a whole vocabulary comes without d2t."""
    maps = {"d2t": source.own["d2t"].long(), "t2d": source.own["t2d"].bool()} if source.reduced else {}
    write_drafter_files(out, native_config(source.config, source.directory), source.weights | maps)
    return []


def understood(found: Foreign) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours, and what the user should know; what it leaves open is refused."""
    config = found.config
    check_rope(config, found.where)
    found.check_plain(UNLIKE)
    if config.get("target_hidden_size") not in (None, config.get("hidden_size")):
        found.refuse(
            f"it is {config.get('hidden_size')} wide and its target {config['target_hidden_size']}, which paradraft "
            "does not support"
        )
    layers, notes = feature_layers(found)
    heads = config.get("num_attention_heads")
    sizes = {"head_dim": config["hidden_size"] // heads} if heads and config.get("hidden_size") else {}
    own = {**sizes, **{key: value for key, value in config.items() if value is not None}, LAYER_KEY: layers}
    own.setdefault("dtype", config.get("torch_dtype", "bfloat16"))
    own.setdefault("num_key_value_heads", heads)
    own.setdefault("draft_vocab_size", own.get("vocab_size"))
    return native_config(own, found.where), notes


def feature_layers(found: Foreign) -> tuple[list[int], list[str]]:
    """Indices of Transformers' hidden_states, ascending."""
    listed, inner = found.config.get(LAYER_KEY), (found.config.get("eagle_config") or {}).get(LAYER_KEY)
    for ids in (listed, inner):
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, int) for i in ids)):
            found.refuse(f"its {LAYER_KEY} must be a list of numbers, not {ids!r}")
    if listed:
        if inner not in (None, [i - 1 for i in listed]):
            found.refuse(f"it names its feature layers twice, as {listed} and, one lower there, {inner}")
        return ascending(found, listed), []
    if inner:
        found.refuse(
            f"it names its feature layers in eagle_config only ({inner}), where some trainers count layer outputs from "
            "0 and others hidden states",
            "layer-outputs",
        )
        return ascending(found, [i + 1 for i in inner]), []
    side = needed(found.side, "the drafter does not name its feature layers, and its authors' depend on the target")
    layers = [i + 1 for i in published_layers(len(side.target.layers))]
    return layers, [f"it does not name its feature layers; its authors' are taken, hidden states {layers}"]


def ascending(found: Foreign, layers: list[int]) -> list[int]:
    if layers != sorted(set(layers)) or layers[0] < 1:
        found.refuse(f"its feature layers, hidden states {layers}, must ascend from 1 or more: engines sort them")
    return layers


def own_tensors(tensors: Mapping[str, Tensor], config: dict[str, Any], where: Path) -> dict[str, Tensor]:
    """A foreign drafter's tensors by our names, with both maps of a reduced vocabulary or none; notes its size."""
    kept = {name.replace("layers.0.", "midlayer.", 1): tensor for name, tensor in tensors.items()}
    d2t, t2d = kept.pop("d2t", None), kept.pop("t2d", None)
    size = len(kept["lm_head.weight"]) if "lm_head.weight" in kept else 0
    if d2t is None and size != config["vocab_size"]:
        raise UserError(
            f"drafter {where}: its head has {size} rows and its target {config['vocab_size']} tokens, but there is no "
            "d2t that says which these are"
        )
    if d2t is None or torch.equal(d2t, torch.zeros(config["vocab_size"], dtype=d2t.dtype)):
        return kept
    if len(d2t) != size:
        raise UserError(f"drafter {where}: its head has {size} rows, its d2t {len(d2t)}; the checkpoint is damaged")
    config["draft_vocab_size"] = size
    return kept | {"d2t": d2t.long(), "t2d": inside(d2t, config["vocab_size"]) if t2d is None else t2d.bool()}


def read(found: Foreign) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    config, notes = understood(found)
    return config, own_tensors(found.without_the_targets("embed_tokens.weight"), config, found.where), notes


# --- llama.cpp --------------------------------------------------------------------------------------------------

GGUF_NAMES = gguf.LAYER | {"fc": "fc", "hidden_norm": "attn_norm_2", "norm": "output_norm", "lm_head": "output"}
GGUF_LAYERS = 3


def gguf_parts(source: DrafterFiles, target: TargetSide) -> gguf.Parts:
    """With its own head; the embedding is the target's. `extract_layers` is what older readers call `target_layers`."""
    native = native_config(source.config, source.directory)
    layers = native[LAYER_KEY]
    if len(layers) != GGUF_LAYERS:
        raise UserError(
            f"llama.cpp's EAGLE-3 reads {GGUF_LAYERS} layers of the target; this drafter reads {len(layers)}"
        )
    fields = gguf.sizes("eagle3", native) | {
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
        there = gguf.gguf_name(name.replace("midlayer.", "layers.0."), GGUF_NAMES)
        tensors[there] = tensor if rotary is None else interleaved(tensor, rotary)
    if source.reduced:
        tensors["d2t"] = source.draft_ids()
    return gguf.Parts("eagle3", fields, tensors, native["vocab_size"])


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Query or key weights [heads * dim, H] for rotations of neighbours: in a head, rows i and i + dim/2 side by side.

    llama.cpp rotates EAGLE-3 in this way, and DFlash as we do, by halves.
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def three_layers(facts: Facts) -> str:
    count = len(facts.config.get(LAYER_KEY) or ())
    return "" if count == GGUF_LAYERS else f"its EAGLE-3 reads {GGUF_LAYERS} layers of the target, this drafter {count}"


LAYOUT = Layout(
    read,
    write={"vllm": write, "sglang": write, "published": write, "gguf": gguf.writer(gguf_parts)},
    engines={
        "vllm": Use(),
        "sglang": Use(),
        "llama.cpp": Use("gguf", reasons=(three_layers,)),
        "transformers": transformers.NO_ASSISTANT,
    },
    vllm={"method": "eagle3"},
    sglang="EAGLE3",
    names_target=False,
)
