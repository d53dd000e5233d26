"""The published PARD-2 layout, both ways. What is written is read again and compared before it gets its name.

Our directories are what engines read already: a DFlash or PARD directory, copied, serves. PARD-2 differs in one file:
its feature projection is published as `warp_model.bin` (a pickled dict; read weights only), ours is safetensors.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..drafters import kind_of
from ..drafters.pard2 import PROJECTION, PUBLISHED_PROJECTION, read_projection
from ..errors import UserError
from ..files import new_directory

KEPT = ("*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors")  # configuration, tokenizer, weights


def import_published(checkpoint: Path, out: Path) -> str:
    """A published checkpoint as a directory of ours; returns its kind. Needs no target."""
    kind = kind_of(checkpoint)
    if not list(checkpoint.glob("model*.safetensors")):
        raise UserError(
            f"{checkpoint} holds no model*.safetensors; convert its weights to safetensors first "
            "(only the small PARD-2 projection is read from a pickle)"
        )
    with new_directory(out) as directory:
        copy_files(checkpoint, directory)
        if kind == "pard2":
            weight = read_projection(checkpoint)
            write_projection(directory, weight)
            compare(weight, read_projection(directory), out)
    return kind


def export_published(drafter: Path, out: Path) -> str:
    """One of our directories in the layout of PARD-2's authors; other kinds are published as they are."""
    kind = kind_of(drafter)
    with new_directory(out) as directory:
        copy_files(drafter, directory)
        if kind == "pard2":
            weight = read_projection(drafter)
            torch.save({"target_proj.weight": weight}, directory / PUBLISHED_PROJECTION)
            compare(weight, read_projection(directory), out)
    return kind


def copy_files(source: Path, destination: Path) -> None:
    for pattern in KEPT:
        for path in source.glob(pattern):
            shutil.copyfile(path, destination / path.name)


def write_projection(directory: Path, weight: Tensor) -> None:
    (directory / PROJECTION).parent.mkdir(exist_ok=True)
    save_file({"target_proj.weight": weight.contiguous()}, directory / PROJECTION)


def compare(written: Tensor, read: Tensor, out: Path) -> None:
    if not torch.equal(written, read):
        raise UserError(f"{out}: the projection read back differs from what was written; the disk may be faulty")
