"""The training loop: batch, features, grid, forward, chunked head, backward, clip, step, log.

Everything random is drawn from the seed, the step and the example's number, never from a running generator: a
resumed run goes on as if it had not stopped, and evaluation in between disturbs nothing.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import RunConfig, dump_config, load_config
from ..data.batches import batches_from, collate, steps_per_epoch
from ..data.render import Rendered
from ..drafters import Drafter
from ..errors import UserError
from ..evaluation.measure import check_first_turns
from ..evaluation.prompts import PromptSet, load_prompts
from ..evaluation.quick import emitted_length_of
from ..files import make_directory, write_text
from ..objectives import ObjectiveSums
from ..objectives.chunked_head import chunked_head
from ..target import Target
from .checkpoint import find_checkpoint, forget_later_checkpoints, load_training_state, save_checkpoint, save_drafter
from .optim import learning_rate_at, make_optimizer
from .read_target import read_target
from .setup import load_examples, load_target, make_drafter, make_objective
from .stored import open_store, read_stored

Report = Callable[[dict[str, Any]], None]


@dataclass
class Progress:
    """All that changes while a run goes on, beside weights and optimiser."""

    step: int = 0
    best_emitted_length: float = 0.0
    best_step: int = 0


class Trainer:
    """One run. `report` receives every record of metrics.jsonl as it is written."""

    def __init__(self, config: RunConfig, resume: str = "auto", report: Report = lambda record: None) -> None:
        self.config, self.report = config, report
        self.prompt_sets = [load_prompts(name, config.evaluation.limit) for name in config.evaluation.prompts]
        self.target: Target = load_target(config)
        for prompt_set in self.prompt_sets:
            check_first_turns(self.target, prompt_set, config.evaluation.max_new_tokens)
        self.data = load_examples(config, self.target)
        self.examples: list[Rendered] = self.data.examples
        checkpoint = find_checkpoint(config.output, resume)
        if checkpoint is not None:
            check_same_run(config, checkpoint.parent.parent / "config.yaml")
        self.drafter: Drafter = seeded_drafter(config, self.target, checkpoint)
        self.objective = make_objective(config)
        self.store = open_store(config, self.target, self.data, self.drafter, self.objective)
        section = config.training
        self.optimizer = make_optimizer(
            section.optimizer, self.drafter.named_parameters(), section.learning_rate, section.weight_decay
        )
        self.progress = Progress()
        if checkpoint is not None:
            self.progress = Progress(**load_training_state(checkpoint, self.optimizer))
        per_epoch = steps_per_epoch(len(self.examples), section.batch_size)
        self.steps = min(section.epochs * per_epoch, section.max_steps or section.epochs * per_epoch)
        self.lengths = [len(example.input_ids) for example in self.examples]

    # --- one step -----------------------------------------------------------------------------------------------

    def train_step(self, indices: Sequence[int]) -> dict[str, Any]:
        """One optimiser step on the examples `indices`; returns its record."""
        section, step = self.config.training, self.progress.step
        rate = learning_rate_at(step, self.steps, section.learning_rate, section.warmup_ratio)
        self.optimizer.zero_grad()
        total: ObjectiveSums | None = None
        micro = section.micro_batch_size or section.batch_size
        for start in range(0, len(indices), micro):
            sums = self.forward_backward(indices[start : start + micro])
            total = sums if total is None else total.add(sums)
        assert total is not None
        denominator = float(total.denominator)
        if denominator == 0:
            raise UserError("a batch holds no supervised pair of tokens; check the loss mask of the data")
        gradients = [p.grad for p in self.drafter.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, denominator)
        norm = float(torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), section.max_grad_norm))
        loss = float(total.loss) / denominator
        if not (torch.isfinite(torch.tensor(loss)) and torch.isfinite(torch.tensor(norm))):
            raise UserError(
                f"the loss is no longer finite at step {step + 1}; start again from the last checkpoint under "
                f"{self.config.output / 'checkpoints'} with a lower training.learning_rate"
            )
        self.optimizer.step(rate)
        self.progress.step += 1
        return step_record(total, loss, norm, rate, self.config.denominator)

    def forward_backward(self, indices: Sequence[int]) -> ObjectiveSums:
        """Sums of one micro-batch; gradients of the summed loss are added to the parameters'."""
        section, drafter = self.config.training, self.drafter
        batch = collate([self.examples[i] for i in indices]).to(self.target.device)
        seeds = [anchor_seed(section.seed, self.progress.step, i) for i in indices]
        grid = drafter.grid(batch, section.anchors, seeds)
        with torch.autocast(self.target.device.type, torch.bfloat16, enabled=self.reduced_precision):
            if self.store is None:
                features, blocks = read_target(self.target, grid, drafter.feature_layers, self.objective)
            else:
                features, blocks = read_stored(self.store, self.target, grid, drafter.feature_layers, indices)
            sums = chunked_head(drafter(grid, features), blocks, drafter.head, self.objective)
        sums.loss.backward()
        return sums.detached()

    @property
    def reduced_precision(self) -> bool:
        precision = self.config.training.precision
        return precision == "bfloat16" or (precision == "auto" and self.target.device.type == "cuda")

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """Train to the end; Ctrl-C writes a checkpoint and stops."""
        output, section = self.config.output, self.config.training
        make_directory(output)
        forget_later_checkpoints(output / "checkpoints", self.progress.step)
        if self.progress.step == 0:
            (output / "metrics.jsonl").unlink(missing_ok=True)
        write_text(output / "config.yaml", dump_config(self.config))
        write_text(output / "data.json", self.data.description())
        remaining = self.steps - self.progress.step
        batches = batches_from(self.lengths, section.batch_size, section.seed, self.progress.step)
        started, first = time.time(), self.progress.step
        try:
            if self.progress.step == 0 and self.config.evaluation.at_start:
                self.evaluate()
            for indices in itertools.islice(batches, max(0, remaining)):
                record = self.train_step(indices)
                step = self.progress.step
                if step % section.log_every == 0 or step == self.steps:
                    record["steps_per_second"] = (step - first) / (time.time() - started)
                    self.write(record)
                else:
                    self.report({"step": step, "steps": self.steps})
                if step % self.config.evaluation.every == 0 or step == self.steps:
                    self.evaluate()
                if step % section.save_every == 0 or step == self.steps:
                    self.save()
        except KeyboardInterrupt:
            self.save()
            if not self.prompt_sets or self.progress.best_step == 0:
                save_drafter(self.drafter, output / "drafter")
            raise
        if not self.prompt_sets:
            save_drafter(self.drafter, output / "drafter")
        return self.progress

    def save(self) -> Path:
        directory, keep = self.config.output / "checkpoints", self.config.training.keep_checkpoints
        return save_checkpoint(directory, self.drafter, self.optimizer, vars(self.progress).copy(), keep)

    def evaluate(self) -> None:
        """Decode for real; the drafter with the longest emitted length so far is kept in `drafter/`."""
        if not self.prompt_sets:
            return
        section = self.config.evaluation
        self.drafter.eval()
        lengths = {s.name: self.emitted_length(s, section.max_new_tokens, section.batch_size) for s in self.prompt_sets}
        self.drafter.train()
        mean = sum(lengths.values()) / len(lengths)
        if mean > self.progress.best_emitted_length:
            self.progress.best_emitted_length, self.progress.best_step = mean, self.progress.step
            save_drafter(self.drafter, self.config.output / "drafter")
        self.write({"step": self.progress.step, "emitted_length": mean, "emitted_length_by_set": lengths})

    def emitted_length(self, prompt_set: PromptSet, max_new_tokens: int, batch_size: int) -> float:
        return emitted_length_of(self.target, self.drafter, prompt_set, max_new_tokens, batch_size)

    def write(self, record: dict[str, Any]) -> None:
        record = {"step": self.progress.step, "steps": self.steps, **record, "time": round(time.time(), 3)}
        with (self.config.output / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        self.report(record)


def check_same_run(config: RunConfig, saved: Path) -> None:
    """A checkpoint goes on only with what it was trained for; its schedule may be made longer or shorter."""
    if not saved.is_file():
        return
    before = load_config(saved)
    for section in ("target", "drafter", "objective", "data"):
        old, new = getattr(before, section), getattr(config, section)
        changed = [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)]
        if changed:
            raise UserError(
                f"{saved.parent} holds a run with another {section}.{changed[0]} ({getattr(old, changed[0])}, now "
                f"{getattr(new, changed[0])}); choose another output, or start over with --resume never"
            )


def seeded_drafter(config: RunConfig, target: Target, checkpoint: Path | None) -> Drafter:
    """Fresh weights depend on the run's seed alone; the caller's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        return make_drafter(config, target, checkpoint)


def anchor_seed(seed: int, step: int, example: int) -> int:
    """One seed for the anchors of an example at a step, whatever micro-batch or rank it falls into."""
    return (seed * 1_000_003 + step) * 1_000_003 + example & 0x7FFF_FFFF_FFFF_FFFF


def step_record(sums: ObjectiveSums, loss: float, norm: float, rate: float, denominator: str) -> dict[str, Any]:
    """What metrics.jsonl keeps of a step; lists are per draft position, reached_k = share of blocks right up to k."""
    count = sums.count.clamp(min=1)
    return {
        "loss": loss,
        "denominator": {denominator: float(sums.denominator)},
        "gradient_norm": norm,
        "learning_rate": rate,
        "cross_entropy": float(sums.cross_entropy.sum() / count.sum()),
        "accuracy": rounded(sums.correct / count),
        "reached": rounded(sums.reached / count),
        "weights": rounded(sums.weight / count),
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
