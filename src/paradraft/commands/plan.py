"""What `paradraft train RECIPE --plan` prints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..training.config import RunConfig
from ..training.plan import GIB, Plan, free_memory, make_plan, measure_steps


def print_plan(config: RunConfig, as_json: bool = False) -> None:
    """Plan for the processes of the launcher (WORLD_SIZE) on this machine's kind of device; only the first prints."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = make_plan(config, int(os.environ.get("WORLD_SIZE", "1")), device)
    try:
        plan = replace(plan, measured=measure_steps(config, plan))
    except UserError as error:
        plan.unknown.append(f"time, and a step's memory: {error}")
    if int(os.environ.get("RANK", "0")) > 0:
        return
    console = Console()
    if as_json:
        console.print_json(json.dumps(asdict(plan)))
        return
    table = Table(title=f"plan of {config.output}", title_justify="left", show_header=False, box=None)
    for row in rows_of(config, plan):
        table.add_row(*row)
    console.print(table)
    for reason in plan.unknown:
        console.print(f"not known: {reason}")


def rows_of(config: RunConfig, plan: Plan) -> Iterator[tuple[str, str]]:
    """The rows of the table: a name and a sentence for everything that is known."""
    section, data, measured = config.training, plan.data, plan.measured
    kind = "GPU" if plan.device == "cuda" else "CPU"
    yield "processes", f"{plan.processes} on {kind} (accelerate launch or torchrun sets how many)"
    if data is not None:
        yield "data", f"{data.conversations:,} conversations, about {data.mean_length:,.0f} tokens each"
        yield "steps", f"{plan.steps:,} of {section.batch_size} conversations, {section.epochs} epochs at most"
    for name, size in (("target", plan.target_parameters), ("drafter", plan.drafter_parameters)):
        if size is not None:
            yield name, f"{size:,} parameters"
    free = f"{free_memory(plan.device) / GIB:.1f} GiB are free here"
    if measured is not None:
        peak = f"{measured.peak_bytes / GIB:.2f} GiB a process, measured on texts of {measured.longest:,} tokens"
        yield "memory", f"{peak}; {free} beside it"
    elif plan.standing_bytes is not None:
        yield (
            "memory",
            f"{plan.standing_bytes / GIB:.2f} GiB a process for weights, gradients, optimiser; a step adds to it",
        )
        yield "", free
    if plan.disk_bytes is not None:
        existing = next(p for p in (config.output, *config.output.absolute().parents) if p.exists())
        room = shutil.disk_usage(existing).free
        yield "disk", f"{plan.disk_bytes / GIB:.2f} GiB at most; {room / GIB:.1f} GiB are free"
    if plan.step_flops is not None:
        reading, training, head = (part / 1e12 for part in plan.step_flops)
        parts = f"(target {reading:,.2f}, drafter {training:,.2f}, head {head:,.2f})"
        yield "a step", f"{reading + training + head:,.2f} TFLOP {parts}"
    if measured is not None and plan.steps is not None:
        hours = measured.seconds * plan.steps / 3600
        text = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:,.1f} h"
        yield "time", f"{text} at {measured.seconds:.2f} s a step, measured here; evaluation and saving come on top"
