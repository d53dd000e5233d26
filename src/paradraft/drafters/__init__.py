"""Drafters: small models that propose the next tokens of a target. A new one is one file and one entry here."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..target import Target
from .base import Drafter, DraftState, Proposal, Sampler
from .checkpoint import read_config
from .dflash import DFlash
from .grid import Batch, Grid, anchor_grid

DRAFTERS: dict[str, type[Drafter]] = {"dflash": DFlash}


def load_drafter(directory: Path, target: Target) -> Drafter:
    """The drafter saved in `directory`, whatever its kind, bound to `target`."""
    architectures = read_config(directory).get("architectures") or []
    for kind in DRAFTERS.values():
        if kind.architecture in architectures:
            return kind.from_pretrained(directory, target)
    known = ", ".join(kind.architecture for kind in DRAFTERS.values())
    raise UserError(f"drafter {directory}: its architecture {architectures} is none of those paradraft reads: {known}")


__all__ = [
    "DRAFTERS",
    "Batch",
    "DFlash",
    "DraftState",
    "Drafter",
    "Grid",
    "Proposal",
    "Sampler",
    "anchor_grid",
    "load_drafter",
]
