"""`paradraft import`: turn a published drafter into a directory that paradraft reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .export import print_exchanged


def import_(
    checkpoint: Annotated[str, typer.Argument(help="directory or Hugging Face id of a published drafter")],
    out: Annotated[Path, typer.Option("--out", help="new directory")],
    target: Annotated[
        str | None, typer.Option("--target", help="its target; needed where the checkpoint leaves it open")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="state what the checkpoint leaves open; the error names the choices"),
    ] = None,
) -> None:
    """Turn a published drafter's checkpoint into a directory to train on or decode with.

    DFlash, DFlash 2, DSpark, EAGLE-3, PARD, PARD-2, and DFlash in the speculators format; not those with sliding-window
    layers, as published DFlash 2 drafters have them.

    Example: `paradraft import z-lab/Qwen3-4B-DFlash-b16 --out drafter`
    """
    from ..interchange.exchange import import_checkpoint

    print_exchanged(import_checkpoint(checkpoint, out, target, assume or []), out)
