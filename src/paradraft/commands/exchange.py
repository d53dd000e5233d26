"""Import and export: what was written, what was compared, and how to serve it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer

from ..interchange.exchange import Exchanged, export, import_checkpoint


def run_export(drafter: str, to: str, out: Path, target: str | None) -> None:
    show(export(drafter, to, out, target), out)


def run_import(checkpoint: str, out: Path, target: str | None, assume: Collection[str]) -> None:
    show(import_checkpoint(checkpoint, out, target, assume), out)


def show(done: Exchanged, out: Path) -> None:
    typer.echo(f"wrote {out} ({done.kind}; read back and compared: {done.compared})")
    for note in done.notes:
        typer.echo(f"  {note}")
