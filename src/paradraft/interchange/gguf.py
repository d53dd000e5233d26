"""GGUF for llama.cpp: a drafter in one file, with the target's tokenizer inside; see `gguf_layouts` for its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, TokenType
from torch import Tensor

from ..errors import UserError
from .drafter_files import DrafterFiles
from .gguf_layouts import LAYOUTS
from .target_side import TargetSide, needed

FILE = "drafter.gguf"
FILE_TYPES = {
    torch.float32: LlamaFileType.ALL_F32,
    torch.float16: LlamaFileType.MOSTLY_F16,
    torch.bfloat16: LlamaFileType.MOSTLY_BF16,
}
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
PATTERNS = {CONTRACTIONS + WORDS % "": "qwen2", CONTRACTIONS + WORDS % "{1,3}": "llama-bpe"}
SPECIAL = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """Write drafter.gguf into the directory; returns what the user should know."""
    if source.kind in ("dflash2", "dspark"):
        raise UserError(f"paradraft writes no {source.kind} drafter as GGUF; serve it with vLLM")
    if source.kind not in LAYOUTS:
        raise UserError(
            f"llama.cpp has no {source.kind} drafter of its own; a vanilla draft model goes through its converter "
            "(convert_hf_to_gguf.py on what export --to vllm writes)"
        )
    target = needed(side, "a GGUF drafter carries the target's tokenizer")
    layout = LAYOUTS[source.kind](source, target)
    fields, notes = tokenizer_fields(target, layout.vocabulary)
    fields |= layout.fields
    stored = {name: as_stored(tensor) for name, tensor in layout.tensors.items()}
    dtype = layout.tensors["fc.weight"].dtype
    write_file(out / FILE, layout.architecture, fields | {"general.file_type": int(FILE_TYPES[dtype])}, stored)
    check_file(out / FILE, fields, stored)
    options = f"--spec-type draft-{layout.architecture} --spec-draft-n-max {layout.length}"
    return [*notes, f"llama-server -m TARGET.gguf -md {out.name}/{FILE} {options}"]


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
