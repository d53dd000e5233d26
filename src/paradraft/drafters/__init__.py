"""Drafters: small models that propose the next tokens of a target. A new one is one file and one entry here."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..models import Target
from ..models.cpu_kernels import pack_for_decoding
from ..models.names import drafter_directory
from .base import Drafter, DraftState, Proposal, Sampler
from .dflash import DFlash
from .directory import read_config
from .grid import Batch, Grid, anchor_grid
from .pard import Pard
from .pard2 import Pard2
from .vanilla import Vanilla

DRAFTERS: dict[str, type[Drafter]] = {"dflash": DFlash, "pard2": Pard2, "pard": Pard, "vanilla": Vanilla}


def kind_of(directory: Path) -> str:
    """Which drafter a directory holds, by what its config.json says in the engines' own terms."""
    config = read_config(directory)
    architectures = config.get("architectures") or []
    if DFlash.architecture in architectures:
        return "dflash"
    if "pard_token" in config:
        return "pard2" if config.get("pard2") else "pard"
    if any(str(name).endswith("ForCausalLM") for name in architectures):
        return "vanilla"
    raise UserError(
        f"drafter {directory}: its config.json (architectures {architectures}) is none of those paradraft reads: "
        "DFlash, PARD, PARD-2, or a Hugging Face causal language model"
    )


def load_drafter(name: str | Path, target: Target) -> Drafter:
    """The drafter of that name or directory, whatever its kind, bound to `target`, ready to decode with."""
    directory = drafter_directory(name)
    drafter = DRAFTERS[kind_of(directory)].from_pretrained(directory, target)
    pack_for_decoding(drafter)
    return drafter


__all__ = [
    "DRAFTERS",
    "Batch",
    "DFlash",
    "DraftState",
    "Drafter",
    "Grid",
    "Pard",
    "Pard2",
    "Proposal",
    "Sampler",
    "Vanilla",
    "anchor_grid",
    "kind_of",
    "load_drafter",
]
