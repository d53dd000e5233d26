"""GGUF for llama.cpp: a drafter in one file, with the target's tokenizer inside.

Checked against llama.cpp's `src/models/dflash.cpp`, `src/models/eagle3.cpp` and its converters in `conversion/`; read,
not run. Target layers are named by their *input*, so they count one more than our layer outputs; `d2t` holds the
target's ids themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, TokenType
from torch import Tensor

from ..errors import UserError
from .drafter_files import DrafterFiles
from .layout import Writer
from .target_side import TargetSide, needed

FILE = "drafter.gguf"
UNWRITTEN = "paradraft writes no {kind} drafter as GGUF; serve it with vLLM"
NO_KIND = (
    "llama.cpp has no {kind} drafter of its own; a vanilla draft model goes through its converter "
    "(convert_hf_to_gguf.py on what export --to vllm writes)"
)
FILE_TYPES = {
    torch.float32: LlamaFileType.ALL_F32,
    torch.float16: LlamaFileType.MOSTLY_F16,
    torch.bfloat16: LlamaFileType.MOSTLY_BF16,
}
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
PATTERNS = {CONTRACTIONS + WORDS % "": "qwen2", CONTRACTIONS + WORDS % "{1,3}": "llama-bpe"}
SPECIAL = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


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


@dataclass(frozen=True)
class Parts:
    """A drafter as llama.cpp names it: architecture, keys without the tokenizer's, tensors, the target's tokens."""

    architecture: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: int


def writer(parts_of: Callable[[DrafterFiles, TargetSide], Parts]) -> Writer:
    """A writer of drafter.gguf, from what a kind's parts are called there."""

    def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
        target = needed(side, "a GGUF drafter carries the target's tokenizer")
        parts = parts_of(source, target)
        fields, notes = tokenizer_fields(target, parts.vocabulary)
        fields |= parts.fields
        stored = {name: as_stored(tensor) for name, tensor in parts.tensors.items()}
        file_type = {"general.file_type": int(FILE_TYPES[parts.tensors["fc.weight"].dtype])}
        write_file(out / FILE, parts.architecture, fields | file_type, stored)
        check_file(out / FILE, fields, stored)
        return notes

    return write


def gguf_name(name: str, names: Mapping[str, str]) -> str:
    """`layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight` there."""
    found = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.weight", name)
    if found is None or found[2] not in names:
        raise UserError(f"tensor {name} is not one that llama.cpp has in a drafter of this kind")
    return (f"blk.{found[1]}." if found[1] else "") + names[found[2]] + ".weight"


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


def as_stored(tensor: Tensor) -> Tensor:
    """Vectors in float32, as llama.cpp multiplies with them; matrices and token ids as they are."""
    return tensor.float() if tensor.ndim == 1 and tensor.is_floating_point() else tensor


# --- the target's tokenizer -------------------------------------------------------------------------------------


def tokenizer_fields(side: TargetSide, vocabulary: int) -> tuple[dict[str, Any], list[str]]:
    """Copied from a GGUF target; of a directory, written from its byte-level BPE tokenizer."""
    if side.gguf is not None:
        read = GGUFReader(side.gguf).fields
        return {name: field.contents() for name, field in read.items() if name.startswith("tokenizer.")}, []
    found = side.tokenizer_json()
    model = found["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("unk_token"):
        raise UserError(
            f"the tokenizer of target {side.name} is not byte-level BPE; give the target as a GGUF file "
            "(--target FILE.gguf), whose tokenizer is copied"
        )
    tokens = {number: (token, TokenType.NORMAL) for token, number in model["vocab"].items()}
    for added in found["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]] = (added["content"], kind)
    listed = [tokens.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(vocabulary)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pre, known = pre_tokenizer(found.get("pre_tokenizer") or {})
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token for token, _ in listed],
        "tokenizer.ggml.token_type": [int(kind) for _, kind in listed],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }
    tokenizer = side.target.tokenizer
    for name, key in SPECIAL.items():
        number = getattr(tokenizer, name, None)
        if number is not None:
            fields[f"tokenizer.ggml.{key}_token_id"] = int(number)
    note = (
        "llama.cpp has no rule that splits text as this target's tokenizer does; `default` is written, which matters "
        "only to a program that tokenises with the drafter's file"
    )
    return fields, [] if known else [note]


def pre_tokenizer(found: Mapping[str, Any]) -> tuple[str, bool]:
    """llama.cpp's name for how a tokenizer splits text before merging, and whether it has one."""
    parts = found.get("pretokenizers", [found])
    kinds = [part.get("type") for part in parts]
    patterns = [part.get("pattern", {}).get("Regex") for part in parts if part.get("type") == "Split"]
    if kinds == ["ByteLevel"]:
        return "gpt-2", True
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm", True
    if kinds == ["Split", "ByteLevel"] and patterns[0] in PATTERNS:
        return PATTERNS[patterns[0]], True
    return "default", False


# --- the file ---------------------------------------------------------------------------------------------------


def write_file(path: Path, architecture: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """With the gguf package; whole numbers that llama.cpp reads as unsigned are written so."""
    writer = GGUFWriter(path, architecture)
    for name, value in fields.items():
        kind = value_type(value)
        if kind == GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kind)
    for name, tensor in tensors.items():
        raw = GGMLQuantizationType.BF16 if tensor.dtype == torch.bfloat16 else None
        writer.add_tensor(name, as_array(tensor), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def value_type(value: Any) -> GGUFValueType:
    """int: unsigned; bool before int, of which it is one."""
    if isinstance(value, bool):
        return GGUFValueType.BOOL
    return GGUFValueType.UINT32 if isinstance(value, int) else GGUFValueType.get_type(value)


def as_array(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """numpy has no bfloat16: its bits as uint16."""
    tensor = tensor.contiguous()
    array: numpy.ndarray[Any, Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def check_file(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Read it back with the gguf package and compare every key and every bit."""
    reader = GGUFReader(path)
    for name, value in fields.items():
        field = reader.get_field(name)
        found = None if field is None else field.contents()
        if found != (numpy.float32(value) if isinstance(value, float) else value):
            raise UserError(f"{path}: {name} read back differs from what was written; the disk may be faulty")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in tensors.items():
        read = stored.pop(name, None)
        same = read is not None and list(reversed(read.shape.tolist())) == list(tensor.shape)
        if not same or read is None or read.data.tobytes() != as_array(tensor).tobytes():
            raise UserError(f"{path}: {name} read back differs from what was written; the disk may be faulty")
    if stored:
        raise UserError(f"{path}: it holds {sorted(stored)[0]}, which was not written; the disk may be faulty")
