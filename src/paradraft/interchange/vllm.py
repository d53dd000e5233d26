"""vLLM's directories: DFlash and EAGLE-3 as published, draft language models as plain Hugging Face models.

Checked against vLLM 0.32: `model_executor/models/qwen3_dflash.py`, `v1/spec_decode/draft_model.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import dflash2_layout, dspark_layout, eagle3_layout
from .dflash_layout import native_config
from .drafter_files import DrafterFiles, write_drafter_files
from .language_model_layout import write_language_model
from .target_side import TargetSide, needed

METHODS: dict[str, dict[str, Any]] = {
    "dflash": {"method": "dflash"},
    "dflash2": {"method": "dflash"},
    "dspark": {"method": "dspark"},
    "eagle3": {"method": "eagle3"},
    "pard": {"method": "draft_model", "parallel_drafting": True},
    "pard2": {"method": "draft_model", "parallel_drafting": True},
    "vanilla": {"method": "draft_model"},
}
NO_STATE = "vLLM reads DSpark's vanilla Markov head only, not the gated and recurrent ones; export --to published"
NO_FEATURES = "it drafts independent of the target's features there: vLLM 0.32 and 0.33 have no use for the projection"


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """Write the directory; returns what the user should know."""
    notes = []
    if source.kind == "dflash":
        config, tensors = native_config(source.config, source.directory), dict(source.weights)
        if source.reduced:
            ids = source.draft_ids()
            head = needed(side, "the rows of its head that a reduced draft vocabulary uses are written out")
            tensors |= {
                "d2t": source.own["d2t"].long(),
                "lm_head.weight": head.head_rows(ids, tensors["fc.weight"]),
            }
            config["draft_vocab_size"] = len(ids)
        write_drafter_files(out, config, tensors)
    elif source.kind == "dflash2":
        dflash2_layout.write(source, out)
    elif source.kind == "dspark":
        if source.config["markov_head_type"] != "vanilla":
            raise UserError(NO_STATE)
        dspark_layout.write(source, out, side)
    elif source.kind == "eagle3":
        eagle3_layout.write(source, out)
    else:
        notes += write_language_model(source, out, side)
    if source.kind == "pard2":
        notes.append(NO_FEATURES)
    target = "TARGET" if side is None else side.location
    speculative = speculative_config(source.kind, out.name, source.length)
    return [*notes, f"vllm serve {target} --speculative-config '{speculative}'"]


def speculative_config(kind: str, directory: str, length: int) -> str:
    """What --speculative-config is given; without `method` vLLM would guess it from the directory's name."""
    return json.dumps({**METHODS[kind], "model": directory, "num_speculative_tokens": length})
