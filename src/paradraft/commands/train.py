"""`paradraft train`: run a training in the terminal, or with --plan print what it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..numbers import duration, size
from .terminal import print_notes, print_origin, progress_bar

if TYPE_CHECKING:
    from ..training.config import RunConfig
    from ..training.loop import Trainer
    from ..training.plan import Plan


def train(
    config: Annotated[Path, typer.Argument(help="YAML; see recipes/")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    resume: Annotated[
        str, typer.Option("--resume", help="auto: from the newest checkpoint; never; or a checkpoint directory")
    ] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="print what the run needs (memory, disk, steps, time) and stop")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Train a drafter. Example: `paradraft train recipes/demo-dpace.yaml training.max_steps=50`

    Several processes: `accelerate launch -m paradraft.cli train RECIPE` or `torchrun -m paradraft.cli train RECIPE`.
    """
    from ..training.config import load_config

    if json and not plan:
        raise UserError("--json prints a plan; give --plan too, or leave it out")
    run = load_config(config, overrides or [])
    if plan:
        print_plan(run, json)
    else:
        train_with_progress(run, resume)


def train_with_progress(config: RunConfig, resume: str) -> None:
    """Set up, train with a progress bar, and say where the drafter is, or how to go on after Ctrl-C."""
    from ..training.loop import Trainer

    console = Console(quiet=int(os.environ.get("RANK", 0)) > 0)  # only one of several processes prints
    with console.status("loading the target and the data"):
        trainer = Trainer(config, resume)
    print_origin(console, trainer.target)
    print_notes(console, trainer.data.notes)
    parameters, count = sum(p.numel() for p in trainer.drafter.parameters()), trainer.processes.world_size
    console.print(
        f"{parameters:,} parameters, {len(trainer.examples):,} conversations, {trainer.steps:,} steps, "
        f"loss divided by {trainer.objective.denominator}" + (f", {count} processes" if count > 1 else "")
    )
    if trainer.progress.step >= trainer.steps:
        trainer.run()  # writes what the run may have left unwritten at its end
        console.print(f"nothing to do: {config.output} has already reached step {trainer.progress.step}")
        return
    if trainer.progress.step:
        console.print(f"resuming at step {trainer.progress.step}")
    try:
        run_to_the_end(console, trainer)
    except KeyboardInterrupt:
        same = "the same command" if resume == "auto" else "the same command without --resume"
        console.print(f"stopped; {same} goes on from step {trainer.saved_step}")
        raise typer.Exit(130) from None
    best = trainer.progress
    note = (
        f", best emitted length {best.best_emitted_length:.3f} at step {best.best_step}"
        if best.best_emitted_length
        else ""
    )
    console.print(f"drafter in {config.output / 'drafter'}{note}")
    trainer.processes.shut_down()


def run_to_the_end(console: Console, trainer: Trainer) -> None:
    """All steps that are left, with rate and loss behind the bar and a line for each evaluation."""
    shown = trainer.progress.step
    with progress_bar(console, "training", trainer.steps, shown, stays=True) as advance:

        def report(record: dict[str, Any]) -> None:
            nonlocal shown
            figures = (
                f"loss {record['loss']:.3f}, {record['steps_per_second']:.2f} steps/s" if "loss" in record else None
            )
            advance(record["step"] - shown, figures)
            shown = record["step"]
            if "emitted_length" in record:
                console.print(f"step {shown}: emitted length {record['emitted_length']:.3f} ({by_set(record)})")

        trainer.report = report
        trainer.run()


def by_set(record: dict[str, Any]) -> str:
    """The emitted length of each prompt set of an evaluation."""
    return ", ".join(f"{name} {value:.2f}" for name, value in record["emitted_length_by_set"].items())


# --- the plan -----------------------------------------------------------------------------------------------------


def print_plan(config: RunConfig, as_json: bool = False) -> None:
    """Plan for the processes of the launcher (WORLD_SIZE) on this machine's kind of device; only the first prints."""
    import torch

    from ..training.plan import make_plan, measure_steps

    plan = make_plan(config, int(os.environ.get("WORLD_SIZE", "1")), "cuda" if torch.cuda.is_available() else "cpu")
    try:
        plan = measure_steps(config, plan)
    except UserError as error:
        plan.unknown.append(f"time, and a step's memory: {error}")
    console = Console(quiet=int(os.environ.get("RANK", 0)) > 0)
    if as_json:
        console.print_json(data=asdict(plan))
        return
    table = Table(title=f"plan of {config.output}", title_justify="left", show_header=False, box=None)
    for row in rows_of(config, plan):
        table.add_row(*row)
    console.print(table)


def rows_of(config: RunConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    """The rows of the table: a name and a sentence for everything that is known."""
    from ..training.plan import free_memory

    section = config.training
    yield "processes", f"{plan.processes} on {plan.device} (accelerate launch or torchrun sets how many)"
    yield "data", f"{plan.examples:,} conversations, about {plan.mean_length:,.0f} tokens each"
    yield "steps", f"{plan.steps:,} of {section.batch_size} conversations, {section.epochs} epochs at most"
    yield "target", f"{plan.target_parameters:,} parameters"
    yield "drafter", f"{plan.drafter_parameters:,} parameters"
    needed, what = plan.standing_bytes, "for weights, gradients, optimiser; a step adds to it"
    if plan.peak_bytes is not None:
        needed, what = plan.peak_bytes, "measured on the longest texts"
    free = size(free_memory(plan.device))
    yield "memory", f"{size(needed)} a process, {what}; {free} are free beside it"
    existing = next(p for p in (config.output, *config.output.absolute().parents) if p.exists())
    yield "disk", f"{size(plan.disk_bytes)} at most; {size(shutil.disk_usage(existing).free)} are free"
    if plan.step_flops is not None:
        target, drafter, head = (part / 1e12 for part in plan.step_flops)
        parts = f"target {target:,.2f}, drafter {drafter:,.2f}, head {head:,.2f}"
        yield "a step", f"{target + drafter + head:,.2f} TFLOP ({parts})"
    if plan.step_seconds is not None:
        time = duration(plan.step_seconds * plan.steps)
        yield "time", f"{time} at {plan.step_seconds:.2f} s a step, measured here; evaluation and saving come on top"
    yield from (("not known", reason) for reason in plan.unknown)
