"""GGUF files as targets: dequantised once into a directory of safetensors that every engine reads.

The directory lies in a cache, under the hash of the file, and holds float32: dequantised values are not exact in fewer
bits. `paradraft.json` in it says what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import new_directory

NOTE = "paradraft.json"
FORMAT = "1"  # of what is written; part of the directory's name, so that an older cache is left alone


def cache_directory() -> Path:
    """`PARADRAFT_CACHE`, or paradraft/ where the system keeps caches."""
    chosen = os.environ.get("PARADRAFT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paradraft"


def dequantized(path: Path) -> Path:
    """The directory made of a GGUF file: `config.json`, tokenizer and float32 weights. Made at the first call."""
    if not path.is_file():
        raise UserError(f"target {path} does not exist; give the path of a GGUF file")
    directory = cache_directory() / "gguf" / f"{file_hash(path)}-{FORMAT}"
    if not (directory / NOTE).is_file():
        with new_directory(directory, shared=True) as out:
            write_directory(path, out)
    return directory


def origin(directory: str | Path) -> str | None:
    """What a directory made here was made from, in words, such as "Q4_1 weights of FILE, dequantised"."""
    note = Path(directory) / NOTE
    if not note.is_file():
        return None
    found = json.loads(note.read_text(encoding="utf-8"))
    return f"{found['weights']} weights of {found['file']}, dequantised"


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()[:16]


def write_directory(path: Path, out: Path) -> None:
    """Model, tokenizer and generation settings of the file, without a trace of its quantisation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        weights = stored_as(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise UserError(f"target {path} needs the package gguf ({first_line(error)}): pip install gguf") from None
    except Exception as error:  # damaged files and unknown architectures surface as errors of many kinds
        raise UserError(f"target {path} cannot be read as GGUF: {first_line(error)}") from error
    config = model.config
    del config.quantization_config  # the loaded model cannot be saved: to Transformers it is still quantised
    config._name_or_path = ""
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / NOTE).write_text(json.dumps({"file": path.name, "weights": weights}) + "\n", encoding="utf-8")


def stored_as(path: Path) -> str:
    """Its type of weights as the file names it, such as Q4_1."""
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(path).get_field("general.file_type")
    name = LlamaFileType(int(field.contents())).name if field is not None else "unnamed"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")
