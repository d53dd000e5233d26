"""GGUF files as targets: dequantised once into a directory of safetensors that every engine reads.

The directory lies in a cache, under the hash of the file, and holds float32: dequantised values are not exact in fewer
bits. `paradraft.json` in it says what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import read_json, whole_directory

NOTE = "paradraft.json"
FORMAT = "2"  # of what is written; part of the directory's name, so that an older cache is left alone
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell"}  # Transformers reads these as plain GPT-2


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
    state = path.stat()
    directory = cache_directory() / "gguf" / f"{file_hash(path.resolve(), state.st_size, state.st_mtime_ns)}-{FORMAT}"
    if directory.is_dir() and not (directory / NOTE).is_file():
        raise UserError(f"{directory} is not what was made of {path.name}; remove it and it is made again")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {directory.parent} cannot be made ({error.strerror}); set PARADRAFT_CACHE to another directory"
        ) from None
    if not directory.is_dir():
        with whole_directory(directory, "keep") as out:
            write_dequantized(path, out)
    return directory


def origin(directory: str | Path) -> str | None:
    """What a directory made here was made from, in words, such as "Q4_1 weights of FILE, dequantised"."""
    note = Path(directory) / NOTE
    if not note.is_file():
        return None
    found = read_json(note)
    return f"{found['weights']} weights of {found['file']}, dequantised"


@cache
def file_hash(path: Path, size: int, changed: int) -> str:
    """Of the content; read once a process for as long as size and time of the last change stay the same."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()[:16]


def write_dequantized(path: Path, out: Path) -> None:
    """Model, tokenizer and generation settings of the file, without a trace of its quantisation."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        weights, split = stored_as(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise UserError(f"target {path} needs the package gguf ({first_line(error)}): pip install gguf") from None
    except Exception as error:  # damaged files and unknown architectures surface as errors of many kinds
        raise UserError(f"target {path} cannot be read as GGUF: {first_line(error)}") from error
    if split in DIGITS_APART:
        bytes_of_pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        pieces = [pre_tokenizers.Digits(individual_digits=True), bytes_of_pieces]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    config = model.config
    vars(config).pop("quantization_config", None)  # to Transformers the loaded model is still quantised: unsaveable
    config._name_or_path = ""
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / NOTE).write_text(json.dumps({"file": path.name, "weights": weights}) + "\n", encoding="utf-8")


def stored_as(path: Path) -> tuple[str, str]:
    """Its type of weights as the file names it, such as Q4_1, and how its tokenizer splits text before merging."""
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(path)
    kind, split = (reader.get_field(name) for name in ("general.file_type", "tokenizer.ggml.pre"))
    name = LlamaFileType(int(kind.contents())).name if kind is not None else "unnamed"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_"), "" if split is None else str(split.contents())
