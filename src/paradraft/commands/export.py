"""`paradraft export`: write a drafter in the format of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..interchange.exchange import Exchanged


def export(
    drafter: Annotated[str, typer.Argument(help="directory, Hugging Face id, demo:NAME or smollm2:NAME")],
    to: Annotated[str, typer.Option("--to", help="vllm, sglang, speculators, gguf, transformers or published")],
    out: Annotated[Path, typer.Option("--out", help="new directory")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="its target; needed for gguf and speculators, for a "
            "reduced vocabulary, for a draft model that shares the target's embedding, for DSpark as published",
        ),
    ] = None,
) -> None:
    """Write a drafter in the format of an engine. Example: `paradraft export runs/x/drafter --to vllm --out served`"""
    from ..interchange import exchange

    print_exchanged(exchange.export(drafter, to, out, target), out)


def print_exchanged(done: Exchanged, out: Path) -> None:
    """What was written, what was compared, and how to serve it."""
    typer.echo(f"wrote {out} ({done.kind}; read back and compared: {done.compared})")
    for note in done.notes:
        typer.echo(f"  {note}")
