"""Checkpoints that are complete or absent: written under a temporary name, marked last, then renamed.

A run may be killed at any moment. A resumed run needs nothing but the newest complete checkpoint, which also holds the
best drafter so far.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..drafters import Drafter
from ..errors import UserError
from ..files import flush, parse_json, read_json, whole_directory

MARKER = "COMPLETE"  # lists the files of the directory with their sizes
METRICS = "metrics.jsonl"
BEST = "best"  # in a checkpoint: the run's drafter/ at that moment

log = logging.getLogger(__name__)


# --- directories --------------------------------------------------------------------------------------------------


def write_complete(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a directory, mark it complete, and put it in place of the old one."""
    with whole_directory(path, "replace") as temporary:
        fill(temporary)
        mark_complete(temporary)


def mark_complete(directory: Path) -> None:
    """Flush every file to the disk before the marker is written, so that no power cut leaves a marker without them."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MARKER)
    for path in files:
        flush(path)
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}
    (directory / MARKER).write_text(json.dumps(sizes, indent=0) + "\n", encoding="utf-8")
    flush(directory / MARKER)
    flush(directory)


def torn(directory: Path) -> str:
    """What is wrong with a checkpoint directory; empty if it is complete."""
    marker = directory / MARKER
    if not marker.is_file():
        return f"it has no {MARKER} marker"
    try:
        sizes = dict(read_json(marker))
    except (ValueError, TypeError):
        return f"its {MARKER} marker is cut off"
    for name, size in sizes.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or cut off"
    return ""


def remove_directory(path: Path) -> None:
    """Remove the marker before the files, so that a removal that stops half-way leaves nothing that looks complete."""
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path)


def link_directory(source: Path, copy: Path) -> None:
    """Hard links to a directory's files, or copies where the disk has no links; nobody edits these files in place."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, copy, copy_function=link, ignore=shutil.ignore_patterns(MARKER), dirs_exist_ok=True)


# --- of a run -----------------------------------------------------------------------------------------------------


def save_drafter(drafter: Drafter, path: Path) -> None:
    write_complete(path, drafter.save_pretrained)


def save_checkpoint(
    run: Path, drafter: Drafter, optimizer_state: list[dict[str, Any]], progress: dict[str, Any], keep: int
) -> Path:
    """checkpoints/step-N: the drafter's directory plus what training needs to go on; older ones are pruned."""

    def fill(path: Path) -> None:
        drafter.save_pretrained(path)
        torch.save(optimizer_state, path / "optimizer.pt")
        (path / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        if (run / "drafter").is_dir():
            link_directory(run / "drafter", path / BEST)

    path = run / "checkpoints" / f"step-{progress['step']}"
    write_complete(path, fill)
    for old in complete_checkpoints(path.parent)[:-keep]:
        remove_directory(old)
    return path


def restore_best_drafter(run: Path, checkpoint: Path | None) -> None:
    """Put back the drafter/ of the checkpoint, or remove it where the checkpoint has none.

    A later step that the kill threw away, or an older run in the same directory, may have left another one.
    """
    if checkpoint is not None and (checkpoint / BEST).is_dir():
        write_complete(run / "drafter", lambda path: link_directory(checkpoint / BEST, path))
    elif (run / "drafter").is_dir():
        remove_directory(run / "drafter")


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def all_checkpoints(directory: Path) -> list[Path]:
    """Oldest first, torn ones too."""
    return sorted((p for p in directory.glob("step-*") if p.name.removeprefix("step-").isdigit()), key=step_of)


def complete_checkpoints(directory: Path) -> list[Path]:
    """Oldest first; torn ones don't count."""
    return [path for path in all_checkpoints(directory) if not torn(path)]


def find_checkpoint(run: Path, resume: str) -> Path | None:
    """`auto`: the newest complete one of the run, if any; `never`: none; else the directory named."""
    if resume == "never":
        return None
    if resume == "auto":
        for path in reversed(all_checkpoints(run / "checkpoints")):
            reason = torn(path)
            if not reason:
                return path
            log.warning("checkpoint %s is skipped: %s", path, reason)
        if is_finished(run):
            raise UserError(
                f"{run} holds a finished drafter but no checkpoint to go on from; choose another output, or start over "
                "with --resume never"
            )
        return None
    path = Path(resume)
    if torn(path) or not (path / "progress.json").is_file():
        raise UserError(f"checkpoint {path} is missing or incomplete; name a directory such as checkpoints/step-500")
    return path


def is_finished(run: Path) -> bool:
    """Whether the last step that the run recorded is its last one, and its drafter is there."""
    if not (run / "drafter").is_dir() or not (run / METRICS).is_file():
        return False
    try:
        last = parse_json((run / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    except (IndexError, ValueError):  # empty, or torn by a kill
        return False
    return bool(last["step"] >= last["steps"])


def forget_later_checkpoints(directory: Path, step: int) -> None:
    """Checkpoints beyond `step` belong to a run that is being replaced; they must not be resumed from."""
    for path in all_checkpoints(directory):
        if step_of(path) > step:
            remove_directory(path)
    for leftover in directory.glob(".step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover)


def read_training_state(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The saved progress, and the state of the optimisers on the CPU."""
    try:
        progress: dict[str, Any] = read_json(path / "progress.json")
        return progress, torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # of json, pickle and zip; its files have the right sizes
        raise UserError(
            f"checkpoint {path} is damaged ({type(error).__name__}); remove it to go on from the one before it"
        ) from error
