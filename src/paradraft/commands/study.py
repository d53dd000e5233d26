"""`paradraft study`: drafters and objectives compared at equal budget, with several seeds, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..numbers import duration
from .options import ThreadsOption, set_threads
from .terminal import progress_bar

if TYPE_CHECKING:
    from ..training.study import Row, Study, StudySection


def study(
    config: Annotated[Path, typer.Argument(help="YAML: recipe, cells, baseline, seeds, measure, output")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ... of the study itself")] = None,
    threads: ThreadsOption = None,
) -> None:
    """Train every cell with every seed, measure all on the same prompts, and print one table.

    The same command goes on where it was stopped. Example: `paradraft study studies/demo-weightings.yaml seeds=[1]`
    """
    from ..config import load_section
    from ..training.study import Study, StudySection

    console = Console()
    set_threads(threads)
    section = load_section(StudySection, config, overrides or [])
    whole = Study(section)
    trials = []
    try:
        for place, (cell, seed) in enumerate(whole.trials, 1):
            trials.append(run_trial(console, whole, cell, seed, f"{place} of {len(whole.trials)}"))
            write_study(section, trials)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    found = write_study(section, trials)
    console.print(table_of(found["rows"]))
    where = section.output / "study.json"
    console.print(f"{duration(found['seconds'])} in all; {where} holds every prompt's rounds, study.md this table")


def write_study(section: StudySection, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What has come out so far, as study.json and study.md."""
    from ..files import write_text
    from ..training.study import summary

    rows = summary(trials, section.baseline)
    seconds = sum(sum(trial["seconds"].values()) for trial in trials)
    found = {"baseline": section.baseline, "rows": rows, "seconds": seconds, "trials": trials}
    write_text(section.output / "study.json", json.dumps(found, indent=1) + "\n")
    write_text(section.output / "study.md", markdown_of(rows))
    return found


def run_trial(console: Console, whole: Study, cell: str, seed: int, place: str) -> dict[str, Any]:
    """Train and measure one cell with one seed, and print a line of what came out."""
    steps, shown = whole.runs[cell].training.max_steps or 1, 0
    if not whole.file_of(cell, seed).is_file():
        shown = whole.steps_done(cell, seed)
    with progress_bar(console, f"{cell}, seed {seed} ({place})", steps, shown) as advance:

        def report(record: dict[str, Any]) -> None:
            nonlocal shown
            advance(record["step"] - shown)
            shown = record["step"]

        trial = whole.run(cell, seed, report)
    lengths = (
        f"{m['prompts']} {sum(m['tokens']) / max(1, sum(m['rounds'])):.2f}"
        for m in trial["measured"]
        if m["temperature"] == whole.study.measure.temperatures[0]
    )
    console.print(f"{cell}, seed {seed}: {', '.join(lengths)}")
    return trial


def table_of(rows: list[Row]) -> Table:
    from ..evaluation.study_report import COLUMNS, read_rows, study_cells

    table = Table(title="tokens a round (emitted length), mean and standard deviation over the seeds")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("cell", "prompts") else "right")
    for row in read_rows(rows):
        table.add_row(*study_cells(row))
    return table


def markdown_of(rows: list[Row]) -> str:
    from ..evaluation.study_report import COLUMNS, read_rows, study_cells
    from ..evaluation.tables import markdown

    return markdown(COLUMNS, list(map(study_cells, read_rows(rows)))) + "\n"
