"""SGLang's directories: DFlash (full vocabulary) and EAGLE-3 as published, a plain draft model for STANDALONE.

Checked against SGLang 0.5.23: `srt/models/dflash.py`, `srt/speculative/dflash_utils.py`. Read, not run.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from . import dflash2_layout, eagle3_layout
from .dflash_layout import native_config
from .drafter_files import DrafterFiles, write_drafter_files
from .language_model_layout import write_language_model
from .target_side import TargetSide


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """Write the directory; returns what the user should know."""
    if source.kind in ("pard", "pard2"):
        raise UserError("SGLang 0.5.23 does not draft in parallel with a language model (PARD); export --to vllm")
    if source.kind == "dspark":
        raise UserError("paradraft has not checked how SGLang reads DSpark; export --to vllm")
    options = " ".join(speculative_options(source.kind, out.name, source.length))
    if source.kind == "vanilla":
        return [*write_language_model(source, out, side), options]
    if source.kind == "eagle3":
        eagle3_layout.write(source, out)
        return [options]
    if source.kind == "dflash2":
        dflash2_layout.write(source, out)
        return [options]
    if source.reduced:
        raise UserError(
            "SGLang 0.5.23 gives DFlash the target's whole head; a reduced draft vocabulary does not work there: "
            "export --to speculators and serve with vLLM, or train without drafter.vocabulary"
        )
    write_drafter_files(out, native_config(source.config, source.directory), source.weights)
    return [options]


def speculative_options(kind: str, directory: str, length: int) -> list[str]:
    """Options of its server; DFlash drafts as much as its block holds."""
    if kind in ("dflash", "dflash2"):
        return ["--speculative-algorithm", "DFLASH", "--speculative-draft-model-path", directory]
    algorithm = {"eagle3": "EAGLE3", "vanilla": "STANDALONE"}[kind]
    return [
        *("--speculative-algorithm", algorithm, "--speculative-draft-model-path", directory),
        *("--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"),
        *("--speculative-num-draft-tokens", str(length + 1)),
    ]
