"""`paradraft train RECIPE --plan`: what can be counted without weights, and what some real steps measure.

Models are built on torch's "meta" device, where they have shapes alone. Memory and time are measured where the weights
are on this machine: three steps are trained and thrown away.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace

import psutil
import torch

from ..errors import UserError
from ..models import Target
from ..models.names import weights_are_here
from ..numbers import size
from .config import RunConfig
from .flops import step_flops
from .loop import Trainer
from .optim import make_optimizer
from .setup import load_examples, seeded_drafter, total_steps


@dataclass(frozen=True)
class Plan:
    """What a run needs; `unknown` says what could not be found out and why.

    `standing_bytes`: target, drafter, gradients and optimiser in one process, to which a step's activations come.
    `disk_bytes`: the run's directory at most. `step_flops`: floating-point operations of an optimiser step over all
    processes (target, drafter, head). Measured: `step_seconds` on a batch of middling length, and `peak_bytes` of a
    process on the longest texts.
    """

    processes: int
    device: str
    examples: int
    mean_length: float
    steps: int
    target_parameters: int
    drafter_parameters: int
    standing_bytes: int
    disk_bytes: int
    step_flops: tuple[int, ...] | None = None
    step_seconds: float | None = None
    peak_bytes: int | None = None
    unknown: list[str] = field(default_factory=list)


def make_plan(config: RunConfig, processes: int, device: str) -> Plan:
    """The part that needs no weights; `device`: cpu or cuda, where the run would go."""
    section, asked, data = config.training, config.target, config.data
    with torch.device("meta"):
        target = Target.load(asked.model, "bfloat16", "meta", asked.trust_remote_code, data.thinking, data.date)
    found = load_examples(config, target)
    drafter, count = seeded_drafter(config, target, None, found), len(found.examples)
    weights, trained = target.model.num_parameters(), sum(parameter.numel() for parameter in drafter.parameters())
    optimizer = make_optimizer(section.optimizer, drafter.named_parameters(), 1.0, 0.0, drafter.list_names)
    state = 8 * trained + optimizer.state_bytes  # with gradients in memory, with drafter/ on disk
    wide = {"float32": 4, "bfloat16": 2, "float16": 2}.get(asked.dtype, 2 if device == "cuda" else 4)
    shards = {"fsdp2": processes}
    plan = Plan(
        processes,
        device,
        examples=count,
        mean_length=sum(len(example.input_ids) for example in found.examples) / count,
        steps=total_steps(section, count),
        target_parameters=weights,
        drafter_parameters=trained,
        standing_bytes=wide * weights // shards.get(section.target_sharding, 1)
        + state // shards.get(section.sharding, 1),
        disk_bytes=(section.keep_checkpoints + 1) * state + 4 * trained,  # one more is written before the oldest goes
    )
    learned = sum(example.learned for example in found.examples) / count
    try:
        flops = step_flops(config, drafter, round(plan.mean_length), round(learned))
    except UserError as error:
        return replace(plan, unknown=[f"the operations of a step: {error}"])
    return replace(plan, step_flops=tuple(section.batch_size * part for part in flops))


def measure_steps(config: RunConfig, plan: Plan) -> Plan:
    """Train three steps and forget them: one to warm up, one on the longest texts for memory, one for time.

    Raises UserError where it cannot be measured here, and says why.
    """
    for name in (config.target.model, config.drafter.init_from or "target"):
        if name != "target" and not weights_are_here(name):
            raise UserError(f"the weights of {name} are not on this machine")
    if plan.standing_bytes > (free := free_memory(plan.device)):
        raise UserError(f"{size(plan.standing_bytes)} are needed and {size(free)} are free")
    try:
        trainer = Trainer(config, "never")
        by_length = sorted(range(len(trainer.lengths)), key=lambda i: trainer.lengths[i])
        batch = min(config.training.batch_size, len(by_length))
        middle = by_length[(len(by_length) - batch) // 2 :][:batch]
        for indices in (middle, by_length[-batch:], middle):
            started = time.perf_counter()
            trainer.train_step(indices)
            seconds = time.perf_counter() - started
    except torch.OutOfMemoryError:
        raise UserError("a step does not fit the memory; lower training.micro_batch_size or data.max_length") from None
    trainer.processes.shut_down()
    return replace(plan, step_seconds=seconds, peak_bytes=peak_memory(plan.device))


def free_memory(device: str) -> int:
    return int(torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available)


def peak_memory(device: str) -> int:
    """The most bytes that this process has held so far: of the GPU by torch's allocator, else resident."""
    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
