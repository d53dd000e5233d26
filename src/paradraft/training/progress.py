"""A training run in the terminal: rate, time left, the latest figures, and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .config import RunConfig
from .loop import Trainer


def run_with_progress(config: RunConfig, resume: str) -> None:
    """Set up, train with a progress bar, and say where the drafter is."""
    console = Console(quiet=int(os.environ.get("RANK", 0)) > 0)  # of several processes, one speaks
    with console.status("loading the target and the data"):
        trainer = Trainer(config, resume)
    for note in trainer.data.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    parameters, count = sum(p.numel() for p in trainer.drafter.parameters()), trainer.processes.world_size
    console.print(
        f"{parameters:,} parameters, {len(trainer.examples):,} conversations, {trainer.steps:,} steps, "
        f"loss divided by {trainer.objective.denominator}" + (f", {count} processes" if count > 1 else "")
    )
    if trainer.progress.step >= trainer.steps:
        trainer.run()  # the last thing a run writes may be missing
        console.print(f"nothing to do: {config.output} has already reached step {trainer.progress.step}")
        return
    if trainer.progress.step:
        console.print(f"resuming at step {trainer.progress.step}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    figures = TextColumn("{task.fields[figures]}")
    with Progress(*columns, TimeRemainingColumn(), figures, console=console) as progress:
        task = progress.add_task("training", total=trainer.steps, completed=trainer.progress.step, figures="")

        def report(record: dict[str, Any]) -> None:
            progress.update(task, completed=record["step"])
            if "loss" in record:
                rate = record["steps_per_second"]
                progress.update(task, figures=f"loss {record['loss']:.3f}, {rate:.2f} steps/s")
            elif "emitted_length" in record:
                sets = ", ".join(f"{name} {value:.2f}" for name, value in record["emitted_length_by_set"].items())
                console.print(f"step {record['step']}: emitted length {record['emitted_length']:.3f} ({sets})")

        trainer.report = report
        try:
            trainer.run()
        except KeyboardInterrupt:
            progress.stop()
            console.print(f"stopped; the same command goes on from step {trainer.saved_step}")
            raise typer.Exit(130) from None
    best = trainer.progress
    note = f", best emitted length {best.best_emitted_length:.3f} at step {best.best_step}" if best.best_step else ""
    console.print(f"drafter in {config.output / 'drafter'}{note}")
    trainer.processes.shut_down()
