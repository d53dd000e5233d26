"""The layouts of the drafters' own authors; PARD-2's has its projection in a pickle."""

from __future__ import annotations

from pathlib import Path

import torch

from ..drafters.pard2 import PUBLISHED_PROJECTION, read_projection
from ..errors import UserError
from . import dflash2_layout, dspark_layout, eagle3_layout
from .dflash_layout import native_config
from .drafter_files import DrafterFiles, compare, write_drafter_files
from .language_model_layout import PARD2_KEYS, write_language_model
from .target_side import TargetSide


def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
    """Write the directory; returns what the user should know."""
    if source.kind == "dflash":
        if source.reduced:
            raise UserError("DFlash's authors publish no reduced draft vocabulary; export --to speculators")
        write_drafter_files(out, native_config(source.config, source.directory), source.weights)
        return []
    if source.kind == "dflash2":
        dflash2_layout.write(source, out)
        return []
    if source.kind == "dspark":
        if source.reduced:
            raise UserError("DeepSpec publishes no reduced draft vocabulary; export --to vllm")
        dspark_layout.write(source, out, side, copies=True)
        return []
    if source.kind == "eagle3":
        eagle3_layout.write(source, out)
        return []
    notes = write_language_model(source, out, side, PARD2_KEYS if source.kind == "pard2" else ())
    if source.kind == "pard2":
        weight = source.projection()
        torch.save({"target_proj.weight": weight}, out / PUBLISHED_PROJECTION)
        compare({"target_proj.weight": weight}, {"target_proj.weight": read_projection(out)}, out)
    return notes
