"""`paradraft report`: runs and results as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[list[Path], typer.Argument(help="runs, logs, results.json, bench.json, study.json and such")],
    out: Annotated[Path, typer.Option("--out", help="one HTML file that opens offline")] = Path("report.html"),
) -> None:
    """Draw runs, logs, results, times and studies as one page. Example: `paradraft report runs/demo-dpace`"""
    from ..evaluation.report import write_report

    write_report(results, out)
    typer.echo(f"wrote {out}")
