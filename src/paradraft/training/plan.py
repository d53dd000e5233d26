"""`paradraft train RECIPE --plan`: processes, memory, disk, steps and time, before any weight is loaded."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..text.batches import steps_per_epoch
from ..text.sources import read_source
from . import estimate
from .config import RunConfig
from .estimate import Memory, Model, Step
from .meta_models import Sketch, feature_count, model_sizes, parameter_counts, sketch_drafter, sketch_target
from .setup import load_examples

SAMPLE = 2000  # conversations rendered to learn how long they are
GIB = 2**30
UTILISATION = (0.15, 0.45)  # of a plain matrix product's rate: what training steps of this kind come to


@dataclass(frozen=True)
class Data:
    """Conversations read, examples made of them; lengths of those that were rendered, if any were (`known`).

    `supervised`: the share of their tokens that the target wrote, where anchors can stand.
    """

    conversations: int
    examples: int
    lengths: list[int]
    supervised: float
    known: bool

    @property
    def mean_length(self) -> float:
        return sum(self.lengths) / len(self.lengths)


@dataclass(frozen=True)
class Plan:
    """Everything that is known; None where it cannot be, with the reason in `unknown`."""

    config: RunConfig
    processes: int
    device: str
    unknown: list[str]
    target: Model | None = None
    drafter: Model | None = None
    data: Data | None = None
    step: Step | None = None
    memory: Memory | None = None

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the run."""
        most, section = self.config.training.max_steps, self.config.training
        if self.data is None:
            return None
        all_steps = section.epochs * steps_per_epoch(self.data.examples, section.batch_size)
        return min(all_steps, most or all_steps)

    @property
    def step_flops(self) -> tuple[float, float, float] | None:
        """Of one optimiser step over all processes, at the mean length of the data."""
        if self.target is None or self.drafter is None or self.step is None:
            return None
        step = self.step
        if self.data is not None:
            shape = Shape(step.rows, round(self.data.mean_length), self.data.supervised, step.gpu)
            step = step_of(self.config, self.target, self.drafter, shape)
        scale = self.config.training.batch_size / step.rows
        reading, training, head = estimate.flops(self.target, self.drafter, step)
        return reading * scale, training * scale, head * scale


def make_plan(config: RunConfig, processes: int, device: str) -> Plan:
    """`device`: cpu or cuda, where the run would go."""
    unknown: list[str] = []
    plan = Plan(config, processes, device, unknown)
    sketch = try_to(unknown, "the target's sizes", lambda: sketch_target(config))
    data = try_to(unknown, "steps and lengths", lambda: look_at_data(config, sketch))
    if data is not None and not data.known:
        unknown.append("how long the conversations are: the target's tokenizer is not at hand")
    plan = replace(plan, data=data)
    if sketch is None:
        return plan
    target = model_sizes(sketch.config, parameter_counts(sketch.model))
    drafter = try_to(unknown, "the drafter's sizes", lambda: sketch_drafter(config, sketch))
    if drafter is None:
        return replace(plan, target=target)
    section = config.training
    share = -(-section.batch_size // processes)
    rows = min(section.micro_batch_size or share, share)
    length = min(config.data.max_length, max(data.lengths) if data else config.data.max_length)
    shape = Shape(rows, length, data.supervised if data else 1.0, device == "cuda")
    step = step_of(config, target, drafter, shape)
    pieces = processes if section.sharding == "fsdp2" else 1
    target_pieces = processes if section.target_sharding == "fsdp2" else 1
    memory = estimate.memory(target, drafter, step, section.optimizer, pieces, target_pieces)
    return replace(plan, target=target, drafter=drafter, step=step, memory=memory)


def try_to(unknown: list[str], what: str, find: Any) -> Any:
    try:
        return find()
    except UserError as error:
        unknown.append(f"{what}: {error}")
        return None


# --- what a run meets ---------------------------------------------------------------------------------------------


def look_at_data(config: RunConfig, target: Sketch | None) -> Data:
    """Counts all conversations; renders the first of them where a tokenizer is at hand."""
    section = config.data
    read = [(len(read_source(s.source, section.limit).conversations), s.weight) for s in section.sources]
    longest = max(number for number, _ in read)

    def mixed(most: int) -> int:
        """Conversations a pass, if `most` are read of each source."""
        return sum(round(min(number, most) * weight) for number, weight in read)

    count, limit = mixed(longest), min(longest, SAMPLE)
    if count == 0:
        raise UserError("data.train holds no conversation")
    if target is None or target.tokenizer is None:
        return Data(count, count, [section.max_length], 1.0, False)
    sample = config.model_copy(update={"data": section.model_copy(update={"limit": limit})})
    examples = load_examples(sample, target).examples
    lengths = [len(example.input_ids) for example in examples]
    supervised = sum(sum(example.loss_mask) for example in examples) / sum(lengths)
    return Data(count, round(len(lengths) * count / mixed(limit)), lengths, supervised, True)


@dataclass(frozen=True)
class Shape:
    """A micro-batch: `rows` sequences of `length` tokens, a share of them `supervised`; on a GPU or not."""

    rows: int
    length: int
    supervised: float
    gpu: bool


def step_of(config: RunConfig, target: Model, drafter: Model, shape: Shape) -> Step:
    """What a micro-batch comes to in the drafter's layers and in the head, every draft being counted in full."""
    section: Any = config.drafter
    tokens, kind = shape.rows * shape.length, section.kind
    precision, objective = config.training.precision, config.objective.objective()
    reduced = precision == "bfloat16" or (precision == "auto" and shape.gpu)
    wide = {"float32": 4, "bfloat16": 2, "float16": 2}.get(config.target.dtype, 2 if shape.gpu else 4)
    places = round(shape.supervised * shape.length)  # where an anchor can stand, in a row
    if kind == "dflash":
        anchors = min(config.training.anchors, places)
        slots, context, predictions = anchors * section.block_size, tokens, anchors * (section.block_size - 1)
        keys = shape.length + slots
    else:
        masks = 0.0
        if kind != "vanilla":
            masks = places * sum(max(section.cod_ratio**i, section.cod_least) for i in range(1, section.draft_length))
        slots = keys = shape.length + round(masks)
        context, predictions = 0, places + round(masks)
    width = feature_count(section, target.layers) * target.hidden
    return Step(
        rows=shape.rows,
        length=shape.length,
        queries=shape.rows * slots,
        keys=keys,
        context=context,
        positions=shape.rows * predictions,
        feature_width=width,
        element=2 if reduced else 4,
        target_element=wide,
        reads=(width > 0 and config.data.features is None) or objective.needs_teacher or objective.needs_gold,
        teacher=objective.needs_teacher,
        gold=objective.needs_gold,
        own_head=kind != "dflash",
        gpu=shape.gpu,
    )


# --- what is printed ------------------------------------------------------------------------------------------------


def print_plan(config: RunConfig, as_json: bool = False) -> None:
    """Plan for the processes of the launcher (WORLD_SIZE) on this machine's kind of device; one of them speaks."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = make_plan(config, processes, device)
    precision = config.training.precision
    rate = matmul_rate(device, precision == "bfloat16" or (precision == "auto" and device == "cuda"))
    console = Console()
    if as_json:
        console.print_json(json.dumps(numbers(plan, rate)))
        return
    table = Table(title=f"plan of {config.output}", title_justify="left", show_header=False, box=None)
    for name, text in rows_of(plan, rate):
        table.add_row(name, text)
    console.print(table)
    for reason in plan.unknown:
        console.print(f"cannot know {reason}")


def matmul_rate(device: str, half: bool) -> float:
    """Operations per second of a matrix product on this machine now; `half`: in bfloat16, else float32."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(4):
        wait()
        started = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def numbers(plan: Plan, rate: float) -> dict[str, Any]:
    """The plan as plain numbers: bytes, operations, hours."""
    memory = plan.memory
    hours = hours_of(plan, rate)
    return {
        "processes": plan.processes,
        "device": plan.device,
        "steps": plan.steps,
        "conversations": plan.data.conversations if plan.data else None,
        "target_parameters": plan.target.parameters if plan.target else None,
        "drafter_parameters": plan.drafter.parameters if plan.drafter else None,
        "memory_bytes": {**vars(memory), "peak": memory.peak} if memory else None,
        "disk_bytes": disk_of(plan),
        "step_flops": list(plan.step_flops) if plan.step_flops else None,
        "matmul_rate": rate,
        "hours": list(hours) if hours else None,
        "unknown": plan.unknown,
    }


def disk_of(plan: Plan) -> int | None:
    section = plan.config.training
    if plan.drafter is None:
        return None
    return estimate.disk(plan.drafter, section.optimizer, section.keep_checkpoints)[1]


def hours_of(plan: Plan, rate: float) -> tuple[float, float] | None:
    """At the better and at the worse utilisation, with every process as fast as this machine."""
    if plan.step_flops is None or plan.steps is None:
        return None
    most = sum(plan.step_flops) * plan.steps / rate / plan.processes / 3600
    return most / UTILISATION[1], most / UTILISATION[0]


def rows_of(plan: Plan, rate: float) -> list[tuple[str, str]]:
    section, memory = plan.config.training, plan.memory
    kind = "GPU" if plan.device == "cuda" else "CPU"
    rows = [("processes", f"{plan.processes} on {kind} (accelerate launch or torchrun sets how many)")]
    if plan.data is not None and plan.steps is not None:
        mean = plan.data.mean_length
        lengths = f"about {mean:,.0f} tokens each" if plan.data.known else f"counted as {mean:,.0f} tokens each"
        rows.append(("data", f"{plan.data.conversations:,} conversations, {lengths}"))
        rows.append(("steps", f"{plan.steps:,} of {section.batch_size} conversations, {section.epochs} epochs at most"))
    for name, model in (("target", plan.target), ("drafter", plan.drafter)):
        if model is not None:
            rows.append((name, f"{model.parameters:,} parameters in {model.layers} layers"))
    if memory is not None and plan.step is not None:
        parts = (("target", memory.target), ("drafter and optimiser", memory.drafter), ("step", memory.training))
        text = ", ".join(f"{part} {size / GIB:.2f}" for part, size in parts)
        rows.append(("memory", f"{memory.peak / GIB:.2f} GiB a process at {plan.step.length:,} tokens ({text})"))
        rows.append(("", f"{available(plan.device) / GIB:.1f} GiB are free here; the libraries take some beside it"))
    disk = disk_of(plan)
    if disk is not None:
        rows.append(("disk", f"{disk / GIB:.2f} GiB at most; {free_disk(plan.config.output) / GIB:.1f} GiB are free"))
    if plan.step_flops is not None:
        reading, training, head = (part / 1e12 for part in plan.step_flops)
        text = (
            f"{reading + training + head:,.2f} TFLOP (target {reading:,.2f}, drafter {training:,.2f}, head {head:,.2f})"
        )
        rows.append(("a step", text))
    hours = hours_of(plan, rate)
    if hours is not None:
        low, high = (f"{60 * h:.0f} min" if h < 2 else f"{h:,.1f} h" for h in hours)
        share = " to ".join(f"{u:.0%}" for u in reversed(UTILISATION))
        text = f"{low} to {high}, if a step runs at {share} of the {rate / 1e12:.2f} TFLOP/s of a matrix product here"
        rows.append(("time", f"{text}; evaluation and saving come on top"))
    return rows


def available(device: str) -> int:
    """Free bytes of the device."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def free_disk(path: Path) -> int:
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
