"""Checkpoints that are complete or absent: written under a temporary name, marked last, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..drafters import Drafter
from ..errors import UserError
from .optim import Optimizers

MARKER = "COMPLETE"


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a directory under a temporary name beside `path`, mark it complete, and put it in place of the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    old = path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    fill(temporary)
    (temporary / MARKER).write_text("", encoding="utf-8")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def save_drafter(drafter: Drafter, path: Path) -> None:
    write_directory(path, drafter.save_pretrained)


def save_checkpoint(
    directory: Path, drafter: Drafter, optimizer: Optimizers, progress: dict[str, Any], keep: int
) -> Path:
    """checkpoints/step-N: the drafter's directory plus what training needs to go on; older ones are pruned."""

    def fill(path: Path) -> None:
        drafter.save_pretrained(path)
        torch.save(optimizer.state_dict(), path / "optimizer.pt")
        (path / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

    path = directory / f"step-{progress['step']}"
    write_directory(path, fill)
    for old in complete_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return path


def complete_checkpoints(directory: Path) -> list[Path]:
    """Oldest first; torn ones have no marker and don't count."""
    found = [p for p in directory.glob("step-*") if (p / MARKER).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def find_checkpoint(run: Path, resume: str) -> Path | None:
    """`auto`: the newest complete one of the run, if any; `never`: none; else the directory named."""
    if resume == "never":
        return None
    if resume == "auto":
        return next(reversed(complete_checkpoints(run / "checkpoints")), None)
    path = Path(resume)
    if not (path / MARKER).is_file() or not (path / "progress.json").is_file():
        raise UserError(f"checkpoint {path} is missing or incomplete; name a directory such as checkpoints/step-500")
    return path


def forget_later_checkpoints(directory: Path, step: int) -> None:
    """Checkpoints beyond `step` belong to a run that is being replaced; they must not be resumed from."""
    for path in directory.glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def load_training_state(path: Path, optimizer: Optimizers) -> dict[str, Any]:
    """Restore the optimiser and return the saved progress."""
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True))
    progress: dict[str, Any] = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    return progress
