"""From a configuration to the things a run needs: target, drafter, data, objective."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from ..drafters import DRAFTERS, Drafter
from ..drafters.vocabulary import DraftVocabulary, most_frequent
from ..errors import UserError, first_line
from ..evaluation.prompts import PromptSet
from ..files import read_json
from ..models import Target
from ..models.cpu_kernels import bfloat16_is_fast
from ..objectives import Objective
from ..objectives.token_losses import Opinion, compiled_token_terms
from ..text.batches import steps_per_epoch
from ..text.prepare import Examples, prepare_examples
from ..text.provenance import identify
from .checkpoint import complete_checkpoints
from .config import RunConfig, TrainingSection, load_config
from .distributed import Processes
from .trackers import check_trackers

# What a resumed run must share with the one it goes on from; an empty tuple: the whole section.
SAME: dict[str, tuple[str, ...]] = {
    "target": (),
    "drafter": (),
    "objective": (),
    "data": (),
    "training": ("batch_size", "seed", "anchors", "optimizer"),
}


def check_machine(config: RunConfig, objective: Objective, device: torch.device) -> None:
    """Raises UserError where this machine cannot do what the run asks for, before anything is loaded."""
    check_trackers(config.training.trackers)
    check_precision(config, device)
    if config.training.compile:
        check_compiler(objective, device)


def check_compiler(objective: Objective, device: torch.device) -> None:
    """Raises UserError where torch.compile cannot run, before a run has cost anything."""
    logits = torch.randn(3, 40, device=device, requires_grad=True)
    rows = torch.arange(3, device=device)
    opinion = Opinion(logits.detach(), rows) if objective.needs_teacher else None
    try:
        compiled_token_terms()(logits, rows, opinion, *objective.term_arguments)[0].sum().backward()
    except Exception as error:  # compilers fail in many ways
        first = first_line(error)
        raise UserError(f"torch.compile does not work here ({first}); set training.compile=false") from None


def check_precision(config: RunConfig, device: torch.device) -> None:
    """Refuses bfloat16 on a CPU that has no instructions for it: a step would take hundreds of times longer."""
    asked = {"training.precision": config.training.precision, "target.dtype": config.target.dtype}
    for name, value in asked.items():
        if value == "bfloat16" and not bfloat16_is_fast(device):
            raise UserError(
                f"{name} is bfloat16, but this CPU has no bfloat16 instructions and would take hundreds of times "
                f"longer; set {name}=float32"
            )


def reduced_precision(config: RunConfig, device: str) -> bool:
    """Whether forward passes run in bfloat16 on a device of this type (cpu, cuda); weights stay in float32."""
    precision = config.training.precision
    return precision == "bfloat16" or (precision == "auto" and device == "cuda")


def precision_note(config: RunConfig, target: Target) -> str:
    """In which precision the run computes, in a sentence."""
    device = target.device
    passes = "bfloat16" if reduced_precision(config, device.type) else "float32"
    note = (
        f"the drafter computes in {passes}, the target in {str(target.dtype).removeprefix('torch.')} on {device.type}"
    )
    if config.training.optimizer == "muon" and device.type == "cpu":
        note += "; Muon orthogonalises in float32, as on every CPU"
    return note


def load_target(config: RunConfig, processes: Processes) -> Target:
    """On the process's own device, whole or cut in pieces over all of them."""
    section, sharded = config.target, config.training.target_sharding == "fsdp2" and processes.world_size > 1
    if sharded and section.dtype == "auto":
        raise UserError("training.target_sharding fsdp2 needs target.dtype, such as bfloat16")
    device = "cpu" if sharded else str(processes.device)  # to be cut it need not fit one device
    asked = config.data.thinking, config.data.date  # evaluation asks as the data is rendered
    target = Target.load(section.model, section.dtype, device, section.trust_remote_code, *asked)
    if sharded:
        target.shard(processes.device, processes.world_size)
    return target


def total_steps(section: TrainingSection, examples: int) -> int:
    """Optimiser steps of a run over so many examples: its epochs, or `max_steps` where those are fewer."""
    steps = section.epochs * steps_per_epoch(examples, section.batch_size)
    return min(steps, section.max_steps or steps)


def check_processes(config: RunConfig, examples: int, processes: Processes) -> None:
    """Every process needs its share of a batch, and with FSDP2 all must run equally many forwards."""
    batch, count = min(config.training.batch_size, examples), processes.world_size
    if batch < count:
        raise UserError(
            f"a batch of {batch} conversations is too small for {count} processes; raise training.batch_size"
        )
    if "fsdp2" in (config.training.sharding, config.training.target_sharding) and batch % count:
        raise UserError(
            f"with fsdp2 the batch ({batch} conversations) must be a multiple of the {count} processes; "
            "set training.batch_size"
        )


def check_same_run(config: RunConfig, saved: Path) -> None:
    """A checkpoint goes on only with what it was trained for; its schedule may be made longer or shorter."""
    if not saved.is_file():
        return
    before = load_config(saved)
    for section, fields in SAME.items():
        old, new = getattr(before, section), getattr(config, section)
        old, new = old.model_dump(), new.model_dump()
        changed = [n for n in fields or sorted({*old, *new}) if old.get(n) != new.get(n)]
        if changed:
            raise UserError(
                f"{saved.parent} holds a run with another {section}.{changed[0]} ({old.get(changed[0])}, now "
                f"{new.get(changed[0])}); choose another output, or start over with --resume never"
            )


def evaluation_identity(sets: Sequence[PromptSet], max_new_tokens: int) -> str:
    """Emitted lengths are comparable where this is the same: prompts by their content, and the length of answers."""
    return ", ".join([*(f"{prompts.name} {prompts.hash}" for prompts in sets), f"{max_new_tokens} tokens"])


def check_own_output(output: Path, checkpoint: Path | None) -> None:
    """A run that goes on from another one's checkpoint needs an output that holds no run of its own."""
    own = output / "checkpoints"
    if checkpoint is None or checkpoint.resolve().parent == own.resolve() or not complete_checkpoints(own):
        return
    raise UserError(
        f"{output} holds checkpoints of another run than {checkpoint}; choose another output, or remove that directory"
    )


def check_same_data(data: Examples, saved: Path) -> None:
    """The order of a run's batches follows from its text: a file that has changed since would change it in silence."""
    if not saved.is_file():
        return
    before, now = read_json(saved), json.loads(data.description())
    compared = ("examples", "learned_tokens", "texts")  # of the last, a hash, older runs know nothing
    changed = [name for name in compared if name in before and before[name] != now[name]]
    if changed:
        counts = f"{before[changed[0]]} {changed[0]}, now {now[changed[0]]}"
        how = "as many tokens, but others" if changed == ["texts"] else counts
        raise UserError(
            f"{saved.parent} holds a run on other text than data.train holds now ({how}); bring it back, choose "
            "another output, or start over with --resume never"
        )


def seeded_drafter(config: RunConfig, target: Target, checkpoint: Path | None, data: Examples) -> Drafter:
    """Fresh weights depend on the run's seed alone; the caller's generator is left as it was.

    A reduced vocabulary is taken from the text, also where training starts from a drafter that has another one, unless
    its weights belong to that one. What it covers joins the notes of `data`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        drafter = make_drafter(config, target, checkpoint)
    if checkpoint is None and not drafter.keeps_vocabulary:
        drafter.unrestrict()
    size = config.drafter.vocabulary
    if size is not None and drafter.vocabulary is None:
        learned = (torch.from_numpy(e.input_ids[e.loss_mask]) for e in data.examples)
        chosen = most_frequent(learned, size, target.vocabulary_size, target.stop_tokens)
        drafter.restrict(DraftVocabulary(chosen.ids, target.vocabulary_size))
        data.notes.append(f"the draft vocabulary of {size} tokens covers {chosen.coverage:.2%} of the learned text")
    if drafter.vocabulary is not None and len(drafter.vocabulary) != size:
        raise UserError(
            f"drafter.vocabulary is {size}, but {config.drafter.init_from} has {len(drafter.vocabulary)} tokens; "
            "set it to that"
        )
    return drafter


def make_drafter(config: RunConfig, target: Target, start_from: Path | None) -> Drafter:
    """A drafter in float32, ready to train: from a checkpoint, from `init_from`, or fresh."""
    kind = DRAFTERS[config.drafter.kind]
    if start_from is not None:
        return kind.from_pretrained(start_from, target, torch.float32).train()
    with target.device if target.device.type == "meta" else nullcontext():  # a target of shapes gets such a drafter
        return kind.create(config.drafter, target).train()


def load_examples(config: RunConfig, target: Target) -> Examples:
    """The run's conversations rendered, with something to learn in each, and what is to be said about them."""
    identity = identify(config.target.model)
    return prepare_examples(config.data, target, identity, config.training.seed)
