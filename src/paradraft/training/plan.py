"""`paradraft train RECIPE --plan`: what arithmetic gives from config.json, and what some real steps measure.

Parameters, steps, disk and floating-point operations are counted before any weight is loaded. Memory and time are
measured where the weights are on this machine: three steps are trained and thrown away.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from ..drafters import Batch, Drafter
from ..errors import UserError
from ..models import Target
from ..models.names import is_shipped, target_name
from ..objectives.chunked_head import chunk_positions
from ..text.sources import read_source
from .config import RunConfig
from .loop import Trainer
from .meta_models import meta_drafter, meta_target
from .setup import load_examples, total_steps

SAMPLE = 2000  # conversations of each source that are rendered to learn how long they are
GIB = 2**30
T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """Conversations read and examples made of them; mean tokens of an example, and the share that the target wrote.

    Where the target's tokenizer is not at hand, every example counts as `data.max_length` tokens, all of them learned.
    """

    conversations: int
    examples: int
    mean_length: float
    learned_share: float


@dataclass(frozen=True)
class Measured:
    """Of real steps: seconds of one on a batch of middling length, peak bytes of a process on the longest texts."""

    seconds: float
    peak_bytes: int
    longest: int


@dataclass(frozen=True)
class Plan:
    """None where something cannot be known; `unknown` says what and why.

    `standing_bytes`: target, drafter, gradients and optimiser in one process, to which a step's activations come.
    `disk_bytes`: the run's directory at most. `step_flops`: floating-point operations of an optimiser step over all
    processes (target, drafter, head); a multiplication with its addition counts two.
    """

    processes: int
    device: str
    data: Data | None = None
    steps: int | None = None
    target_parameters: int | None = None
    drafter_parameters: int | None = None
    standing_bytes: int | None = None
    disk_bytes: int | None = None
    step_flops: tuple[float, float, float] | None = None
    measured: Measured | None = None
    unknown: list[str] = field(default_factory=list)


def make_plan(config: RunConfig, processes: int, device: str) -> Plan:
    """The part that needs no weights; `device`: cpu or cuda, where the run would go."""
    section, unknown = config.training, list[str]()

    def known(what: str, find: Callable[[], T]) -> T | None:
        try:
            return find()
        except UserError as error:
            unknown.append(f"{what}: {error}")
            return None

    target = known("the target's sizes", lambda: meta_target(config))
    data = known("steps and lengths", lambda: look_at_data(config, target))
    plan = Plan(processes, device, data, total_steps(section, data.examples) if data else None, unknown=unknown)
    if data is not None and (target is None or target.tokenizer is None):
        unknown.append("how long the conversations are: the target's tokenizer is not at hand")
    if target is None or (drafter := known("the drafter's sizes", lambda: meta_drafter(config, target))) is None:
        return replace(plan, target_parameters=None if target is None else count(target.model))
    weights, size = count(target.model), count(drafter)
    state = 8 * size + optimizer_bytes(drafter, section.optimizer)  # with gradients in memory, with drafter/ on disk
    wide = {"float32": 4, "bfloat16": 2, "float16": 2}.get(config.target.dtype, 2 if device == "cuda" else 4)
    target_shards, shards = (
        processes if sharding == "fsdp2" else 1 for sharding in (section.target_sharding, section.sharding)
    )
    length, learned = (round(data.mean_length), data.learned_share) if data else (config.data.max_length, 1.0)
    reading, training, head = sequence_flops(config, target, drafter, length, learned)
    return replace(
        plan,
        target_parameters=weights,
        drafter_parameters=size,
        standing_bytes=wide * weights // target_shards + state // shards,
        disk_bytes=(section.keep_checkpoints + 1) * state + 4 * size,  # one more is written before the oldest goes
        step_flops=(section.batch_size * reading, section.batch_size * training, section.batch_size * head),
    )


def look_at_data(config: RunConfig, target: Target | None) -> Data:
    """Counts all conversations; renders the first SAMPLE of each source where a tokenizer is at hand."""
    section = config.data
    read = [(len(read_source(s.source, section.limit).conversations), s.weight) for s in section.sources]
    total, sampled = (sum(round(min(n, most) * weight) for n, weight in read) for most in (sys.maxsize, SAMPLE))
    if total == 0:
        raise UserError("data.train holds no conversation")
    if target is None or target.tokenizer is None:
        return Data(total, total, section.max_length, 1.0)
    limit = min(max(n for n, _ in read), SAMPLE)
    sample = config.model_copy(update={"data": section.model_copy(update={"limit": limit})})
    examples = load_examples(sample, target).examples
    tokens = sum(len(example.input_ids) for example in examples)
    learned = sum(sum(example.loss_mask) for example in examples) / tokens
    return Data(total, round(len(examples) * total / sampled), tokens / len(examples), learned)


# --- counting -------------------------------------------------------------------------------------------------------


def count(model: nn.Module, wanted: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True) -> int:
    """Parameters of a model, or of those that are wanted."""
    return sum(p.numel() for name, p in model.named_parameters() if wanted(name, p))


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that multiply every token in the layers; embeddings and heads are counted by themselves."""
    lists = (*model.table_names, *model.head_names) if isinstance(model, Drafter) else ("embed", "lm_head")
    return {n: p for n, p in model.named_parameters() if p.ndim == 2 and not any(part in n for part in lists)}


def elements(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def optimizer_bytes(drafter: nn.Module, optimizer: str) -> int:
    """State in float32: two moments of each weight with AdamW, one momentum of each weight of a matrix with Muon."""
    return 8 * count(drafter) - (4 * elements(matrices(drafter).values()) if optimizer == "muon" else 0)


def sequence_flops(
    config: RunConfig, target: Target, drafter: Drafter, length: int, learned_share: float
) -> tuple[float, float, float]:
    """Of training on one text: what is read of the target, the drafter's three passes, the drafter's head.

    Attention counts as what is computed, masked or not. The grid of a text of this length says how many slots run
    through the drafter's layers, and how many predictions reach the head.
    """
    objective, vocabulary = config.make_objective(), target.vocabulary_size
    mask = torch.arange(length)[None] >= length - round(learned_share * length)
    batch = Batch(torch.zeros(1, length, dtype=torch.long), mask, torch.zeros(1, length, dtype=torch.long))
    grid = drafter.grid(batch, config.training.anchors, [0])
    (queries, context), predictions = drafter.slots(grid), int(grid.valid.sum())

    opinions = objective.needs_distribution
    reads = config.data.features is None and (opinions or bool(drafter.feature_layers))
    forward = length * (elements(matrices(target.model).values()) + 2 * length * attention_width(target.model))
    reading = reads * forward + opinions * min(length, predictions) * target.hidden_size * vocabulary

    keys_values = count(drafter, lambda name, p: name.endswith(("k_proj.weight", "v_proj.weight", "fc.weight")))
    layers = elements(p for name, p in matrices(drafter).items() if not name.endswith("fc.weight"))
    attention = 2 * drafter.pairs(grid) * attention_width(drafter)
    training = queries * layers + context * keys_values + attention

    widths = {name: p.shape[1] for name, p in drafter.named_parameters() if p.ndim == 2}
    own_head = [width for name, width in widths.items() if "embed" in name or "lm_head" in name]
    others = [part for part in drafter.head_names if part != "lm_head"]
    beside = sum(width for name, width in widths.items() if any(part in name for part in others))
    passes = 2 + (predictions > chunk_positions(vocabulary))  # chunks run forward twice
    width = (passes + bool(own_head)) * (own_head[0] if own_head else target.hidden_size) + (passes + 1) * beside
    return 2.0 * reading, 6.0 * training, 2.0 * predictions * width * (config.drafter.vocabulary or vocabulary)


def attention_width(model: nn.Module) -> int:
    """Heads x head size, summed over the layers."""
    return sum(p.shape[1] for name, p in model.named_parameters() if name.endswith("o_proj.weight"))


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_steps(config: RunConfig, plan: Plan) -> Measured:
    """Train three steps and forget them: one to warm up, one on the longest texts for memory, one for time.

    Raises UserError where it cannot be measured here, and says why.
    """
    if plan.standing_bytes is None or plan.data is None:
        raise UserError("the target, the drafter or the data is not known")
    if plan.processes > 1 and "RANK" not in os.environ:
        raise UserError(f"{plan.processes} processes are planned and one is started; use accelerate launch or torchrun")
    for name in (config.target.model, config.drafter.init_from):
        if name is not None and not is_shipped(name) and not weights_are_here(target_name(name)):
            raise UserError(f"the weights of {name} are not on this machine")
    if plan.standing_bytes > (free := free_memory(plan.device)):
        raise UserError(f"{plan.standing_bytes / GIB:.1f} GiB are needed and {free / GIB:.1f} GiB are free")
    silent = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"prompts": ()})})
    try:
        trainer = Trainer(silent, "never")
        by_length = sorted(range(len(trainer.lengths)), key=lambda i: trainer.lengths[i])
        size = min(config.training.batch_size, len(by_length))
        middle = by_length[(len(by_length) - size) // 2 :][:size]
        for indices in (middle, by_length[-size:], middle):
            started = time.perf_counter()
            trainer.train_step(indices)
            seconds = time.perf_counter() - started
    except torch.OutOfMemoryError:
        raise UserError("a step does not fit the memory; lower training.micro_batch_size or data.max_length") from None
    trainer.processes.shut_down()
    return Measured(seconds, peak_memory(plan.device), trainer.lengths[by_length[-1]])


def weights_are_here(name: str) -> bool:
    """In a directory, or, of a Hugging Face id, in its cache."""
    directory = Path(name)
    if not directory.exists():
        cached = try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            return False
        directory = Path(cached).parent
    return any(directory.glob("*.safetensors"))


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
