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
from typing import Any, NamedTuple

from ..errors import UserError, first_line
from ..files import read_json, whole_directory

NOTE = "paradraft.json"
FORMAT = "3"  # of what is written; part of the directory's name, so that an older cache is left alone
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

    from .chat import stop_tokens_of

    try:
        stored = read_header(path)
        found: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise UserError(f"target {path} needs the package gguf ({first_line(error)}): pip install gguf") from None
    except UserError:
        raise
    except Exception as error:  # damaged files and unknown architectures surface as errors of many kinds
        raise UserError(f"target {path} cannot be read as GGUF: {first_line(error)}") from error
    model, loaded = found
    absent = sorted({*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])})
    if absent:
        raise UserError(f"target {path} lacks {absent[0]}: it is not a whole model")
    if stored.split in DIGITS_APART:
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
    ends = stop_tokens_of(model.generation_config, tokenizer).union(stored.ends)
    plain.generation_config.eos_token_id = sorted(ends) or None
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / NOTE).write_text(json.dumps({"file": path.name, "weights": stored.weights}) + "\n", encoding="utf-8")


class Header(NamedTuple):
    """What Transformers does not take from a file: its type of weights as it names it, such as Q4_1; how its tokenizer
    splits text before merging; the tokens that end a turn or a message."""

    weights: str
    split: str
    ends: tuple[int, ...]


def read_header(path: Path) -> Header:
    """UserError for a part of a model, and for scaled rotary positions, which Transformers would read as plain ones."""
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        return None if found is None else found.contents()

    if not reader.tensors:  # Transformers would make a model of its default size
        raise UserError(f"target {path} holds no weights; give a whole model")
    if (parts := field("split.count") or 1) > 1:
        raise UserError(
            f"target {path} is one of {parts} parts of a model; put them together with llama.cpp: "
            f"llama-gguf-split --merge {path.name} whole.gguf"
        )
    scaling = field(f"{field('general.architecture')}.rope.scaling.type")
    if scaling not in (None, "none") or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise UserError(
            f"target {path} has scaled rotary positions ({scaling or 'rope_freqs'}), which Transformers leaves out "
            "of a GGUF file, so it would not be the same model; give the original, a directory or a Hugging Face id"
        )
    kind = field("general.file_type")
    name = LlamaFileType(int(kind)).name if kind is not None else "unnamed"
    ends = [field(f"tokenizer.ggml.{end}_token_id") for end in ("eot", "eom")]
    return Header(
        name.removeprefix("MOSTLY_").removeprefix("ALL_"),
        str(field("tokenizer.ggml.pre") or ""),
        tuple(int(token) for token in ends if token is not None),
    )
