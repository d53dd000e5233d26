"""How engines are told to draft with a drafter: vLLM and SGLang by options, and for each `--to` a line to start with.

Checked against vLLM 0.32 (`v1/spec_decode/draft_model.py`) and SGLang 0.5.23 (`srt/speculative/dflash_utils.py`, read,
not run).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from . import LAYOUTS, gguf
from .drafter_files import DrafterFiles
from .target_side import TargetSide


def speculative_config(kind: str, directory: str, length: int) -> str:
    """What --speculative-config is given; without `method` vLLM would guess it from the directory's name."""
    return json.dumps({**LAYOUTS[kind].vllm, "model": directory, "num_speculative_tokens": length})


def whole_blocks(kind: str) -> bool:
    """Whether SGLang always drafts as much as a block holds."""
    return LAYOUTS[kind].sglang == "DFLASH"


def speculative_options(kind: str, directory: str, length: int) -> list[str]:
    """Options of SGLang's server."""
    options = ["--speculative-algorithm", LAYOUTS[kind].sglang, "--speculative-draft-model-path", directory]
    if whole_blocks(kind):
        return options
    return [
        *options,
        *("--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"),
        *("--speculative-num-draft-tokens", str(length + 1)),
    ]


def by_vllm(source: DrafterFiles, name: str, side: TargetSide | None) -> str:
    target = "TARGET" if side is None else side.location
    return f"vllm serve {target} --speculative-config '{speculative_config(source.kind, name, source.length)}'"


def by_llama(source: DrafterFiles, name: str, side: TargetSide | None) -> str:
    options = f"--spec-type draft-{source.kind} --spec-draft-n-max {source.length}"
    return f"llama-server -m TARGET.gguf -md {name}/{gguf.FILE} {options}"


SERVED: dict[str, Callable[[DrafterFiles, str, TargetSide | None], str]] = {
    "vllm": by_vllm,
    "sglang": lambda source, name, side: " ".join(speculative_options(source.kind, name, source.length)),
    "speculators": by_vllm,
    "gguf": by_llama,
    "transformers": lambda source, name, side: (
        f'target.generate(..., assistant_model=AutoModel.from_pretrained("{name}"), speculation_type="dflash")'
    ),
}
