"""The training loop: batch, features, grid, forward, chunked head, backward, sum, clip, step, log.

Everything random is drawn from the seed, the step and the example's number, never from a running generator: a
resumed run goes on as if it had not stopped, evaluation in between disturbs nothing, and the same batch gives the
same step however many processes and micro-batches it is split over.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..drafters import Drafter
from ..errors import UserError
from ..evaluation.measure import check_first_turns
from ..evaluation.prompts import PromptSet, load_prompt_sets
from ..evaluation.quick import Watched, decode_first_turns, watched
from ..files import make_directory, write_text
from ..models import Target
from ..objectives import Objective, ObjectiveSums
from ..objectives.chunked_head import chunked_head
from ..text.batches import batches_from, collate
from ..text.render import Rendered
from .checkpoint import (
    find_checkpoint,
    forget_later_checkpoints,
    read_training_state,
    restore_best_drafter,
    save_checkpoint,
    save_drafter,
)
from .config import RunConfig, dump_config
from .distributed import Processes, distribute_drafter
from .optim import learning_rate_at, make_optimizer
from .setup import (
    check_machine,
    check_own_output,
    check_processes,
    check_same_data,
    check_same_run,
    evaluation_identity,
    load_examples,
    load_target,
    precision_note,
    reduced_precision,
    seeded_drafter,
    total_steps,
)
from .teacher import open_store, read_teacher, stored_layers
from .trackers import open_trackers
from .watch import Progress, Records, StopRequests, check_finite, check_progress

Report = Callable[[dict[str, Any]], None]


class Trainer:
    """One run, or one process's part in it. `report` is called with every record of metrics.jsonl as it is written.

    Building a Trainer loads and checks everything and writes nothing; `run` makes the output directory.
    """

    def __init__(self, config: RunConfig, resume: str = "auto", report: Report = lambda record: None) -> None:
        self.config, self.report = config, report
        section = config.training
        self.processes = Processes()
        self.objective = config.make_objective()
        check_machine(config, self.objective, self.processes.device)
        self.prompt_sets = load_prompt_sets(config.evaluation.prompts, config.evaluation.limit)
        self.target: Target = load_target(config, self.processes)
        for prompt_set in self.prompt_sets:
            check_first_turns(self.target, prompt_set, config.evaluation.max_new_tokens)
        self.data = load_examples(config, self.target)
        self.data.notes.append(precision_note(config, self.target))
        self.examples: list[Rendered] = self.data.examples
        self.lengths = [len(example.input_ids) for example in self.examples]
        check_processes(config, len(self.examples), self.processes)

        self.checkpoint = self.processes.from_main(lambda: find_checkpoint(config.output, resume))
        check_own_output(config.output, self.checkpoint)
        if self.checkpoint is not None:
            check_same_run(config, self.checkpoint.parent.parent / "config.yaml")
            check_same_data(self.data, self.checkpoint.parent.parent / "data.json")
        self.drafter = seeded_drafter(config, self.target, self.checkpoint, self.data)
        self.parallel = distribute_drafter(self.drafter, section.sharding, self.processes)
        self.store = open_store(config, self.target, self.data, self.drafter, self.objective)
        named, lists = self.drafter.named_parameters(), self.drafter.list_names
        self.optimizer = make_optimizer(section.optimizer, named, section.learning_rate, section.weight_decay, lists)
        self.steps = total_steps(section, len(self.examples))
        evaluated = evaluation_identity(self.prompt_sets, config.evaluation.max_new_tokens)
        self.progress = Progress(measured_on=evaluated)
        if self.checkpoint is not None:
            progress, state = read_training_state(self.checkpoint)
            self.progress = Progress(**progress)
            if self.progress.step < self.steps and self.progress.measured_on != evaluated:
                self.progress.best_emitted_length, self.progress.best_step = 0.0, 0
                self.progress.measured_on = evaluated
            self.parallel.load_optimizer_state(self.optimizer, state)
        self.saved_step = self.progress.step
        self.records: Records | None = None  # of the main process, while it runs

    # --- one step -----------------------------------------------------------------------------------------------

    def train_step(self, indices: Sequence[int]) -> dict[str, Any]:
        """One optimiser step on the examples `indices`, of which each process takes its share; returns its record."""
        section, step = self.config.training, self.progress.step
        rate = learning_rate_at(step, self.steps, section.learning_rate, section.warmup_ratio)
        objective = self.objective.at(step / max(1, self.steps - 1))
        self.optimizer.zero_grad()
        mine = self.processes.share(indices)
        micro = section.micro_batch_size or len(mine)
        total: ObjectiveSums | None = None
        for start in range(0, len(mine), micro):
            with self.parallel.micro_batch(last=start + micro >= len(mine)):
                sums = self.forward_backward(mine[start : start + micro], objective)
            total = sums if total is None else total.add(sums)
        assert total is not None
        total = self.processes.all_reduce(total)
        denominator = float(total.denominator)
        if denominator == 0:
            raise UserError("a batch holds no supervised pair of tokens; check the loss mask of the data")
        gradients = [p.grad for p in self.drafter.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, denominator / self.parallel.averaged_over)
        norm = self.parallel.clip_gradients(section.max_grad_norm)
        loss = float(total.loss) / denominator
        check_finite(loss, norm, step + 1, self.config.output)
        self.optimizer.step(rate)
        self.progress.step += 1
        return step_record(total, loss, norm, rate, objective)

    def forward_backward(self, indices: Sequence[int], objective: Objective) -> ObjectiveSums:
        """Sums of one micro-batch; gradients of the summed loss are added to the parameters'."""
        config, section, drafter, device = self.config, self.config.training, self.drafter, self.target.device
        batch = collate([self.examples[i] for i in indices]).to(device)
        seeds = [anchor_seed(section.seed, self.progress.step, i) for i in indices]
        grid = drafter.grid(batch, section.anchors, seeds)
        stored = None
        if self.store is not None:
            layers = stored_layers(self.target, drafter.feature_layers, objective)
            found = self.store.batch(indices, layers, batch.input_ids.shape[1])
            stored = found.to(device=device, dtype=self.target.dtype)
        features, blocks = read_teacher(self.target, grid, drafter.feature_layers, objective, stored)
        if drafter.vocabulary is not None:
            blocks = blocks.reduced(drafter.vocabulary.ids, drafter.vocabulary.to_draft)
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced_precision(config, device.type)):
            hidden = self.parallel.model(grid, features)
            sums = chunked_head(hidden, blocks, drafter.head, objective, drafter.own_loss)
        sums.loss.backward()
        return sums.detached()

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """Train to the end. After Ctrl-C or SIGTERM the current step is finished and saved, then KeyboardInterrupt."""
        self.processes.from_main(self.prepare_output)
        try:
            self.train()
        finally:
            if self.records is not None:
                self.records.close()
        return self.progress

    def train(self) -> None:
        """The steps that remain, with what comes between them."""
        section, evaluation = self.config.training, self.config.evaluation
        batches = batches_from(self.lengths, section.batch_size, section.seed, self.progress.step)
        remaining = max(0, self.steps - self.progress.step)
        seconds = 0.0  # in steps alone, without evaluation and saving
        with StopRequests() as stop:
            if self.progress.step == 0 and evaluation.at_start:
                self.evaluate()
            for number, indices in enumerate(itertools.islice(batches, remaining), 1):
                started = time.perf_counter()
                record = self.train_step(indices)
                seconds += time.perf_counter() - started
                step, last = self.progress.step, self.progress.step == self.steps
                if step % section.log_every == 0 or last:
                    self.write({**record, "steps_per_second": number / seconds})
                else:
                    self.report({"step": step, "steps": self.steps})
                check_progress(self.progress, record, section, self.config.output)
                if step % evaluation.every == 0 or last:
                    self.evaluate()
                if step % section.save_every == 0 or last:
                    self.save()
                if self.processes.any(stop.requested) and not last:
                    self.save()
                    self.save_last_drafter()
                    raise KeyboardInterrupt
        self.save_last_drafter()

    def prepare_output(self) -> None:
        """Make the run's directory, or bring it back to what it was at the checkpoint."""
        output = self.config.output
        make_directory(output)
        forget_later_checkpoints(output / "checkpoints", self.progress.step)
        restore_best_drafter(output, self.checkpoint)
        if self.progress.step < self.steps or not (output / "config.yaml").is_file():  # else it tells of another run
            write_text(output / "config.yaml", dump_config(self.config))
        write_text(output / "data.json", self.data.description())
        trackers = open_trackers(self.config, self.progress.step) if self.progress.step < self.steps else []
        self.records = Records(output, self.progress.step, trackers)

    def save(self) -> None:
        """A checkpoint of this step, if there is none yet."""
        if self.saved_step == self.progress.step:
            return
        state = self.parallel.optimizer_state(self.optimizer)
        with self.parallel.unsharded() as drafter:
            if self.processes.is_main:
                keep = self.config.training.keep_checkpoints
                save_checkpoint(self.config.output, drafter, state, vars(self.progress).copy(), keep)
        self.saved_step = self.progress.step

    def save_last_drafter(self) -> None:
        """Keep the newest drafter in `drafter/`, unless an evaluation has chosen one."""
        if self.progress.best_emitted_length:
            return
        with self.parallel.unsharded() as drafter:
            if self.processes.is_main:
                save_drafter(drafter, self.config.output / "drafter")

    def evaluate(self) -> None:
        """Decode for real; the drafter with the longest emitted length so far is kept in `drafter/`."""
        if not self.prompt_sets:
            return
        with self.parallel.unsharded() as drafter:
            drafter.eval()
            seen = {prompt_set.name: self.decode(drafter, prompt_set) for prompt_set in self.prompt_sets}
            drafter.train()
            lengths = {name: figures.emitted_length for name, figures in seen.items()}
            mean = sum(lengths.values()) / len(lengths)
            if mean > self.progress.best_emitted_length:
                self.progress.best_emitted_length, self.progress.best_step = mean, self.progress.step
                if self.processes.is_main:
                    save_drafter(drafter, self.config.output / "drafter")
        acceptance = {name: vars(figures.acceptance) for name, figures in seen.items()}
        self.write({"emitted_length": mean, "emitted_length_by_set": lengths, "acceptance_by_set": acceptance})

    def decode(self, drafter: Drafter, prompt_set: PromptSet) -> Watched:
        """Each process decodes its share of the prompts; with a target in pieces, all decode all, in step."""
        section = self.config.evaluation
        together = self.config.training.target_sharding == "fsdp2"
        prompts = prompt_set.prompts if together else self.processes.share(prompt_set.prompts)
        generations = decode_first_turns(self.target, drafter, prompts, section.max_new_tokens, section.batch_size)
        everyone = generations if together else self.processes.all_gather(generations)
        return watched(everyone, drafter.max_draft)

    def write(self, record: dict[str, Any]) -> None:
        record = {"step": self.progress.step, "steps": self.steps, **record, "time": round(time.time(), 3)}
        if self.records is not None:
            self.records.write(record)
        self.report(record)


def anchor_seed(seed: int, step: int, example: int) -> int:
    """One seed for the anchors of an example at a step, whatever micro-batch or rank it falls into."""
    return (seed * 1_000_003 + step) * 1_000_003 + example & 0x7FFF_FFFF_FFFF_FFFF


def step_record(sums: ObjectiveSums, loss: float, norm: float, rate: float, objective: Objective) -> dict[str, Any]:
    """What metrics.jsonl keeps of a step; lists are per draft position, reached_k = share of blocks right up to k.

    With a reduced draft vocabulary: `outside`, the share of labels that are not in it, and `left_out`, the target's
    mean probability of the tokens that are not. `own_loss`: mean of the drafter's own, unweighted, 0 if it has none.
    `alpha`: the weighting's, if it has one. `walk`: accepted tokens a round on a walk along the anchors.
    """
    count = sums.count.clamp(min=1)
    inside = (sums.count - sums.outside).sum().clamp(min=1)
    return {
        "loss": loss,
        "denominator": {objective.denominator: float(sums.denominator)},
        "gradient_norm": norm,
        "learning_rate": rate,
        **({"alpha": objective.parameters["alpha"]} if "alpha" in objective.parameters else {}),
        "cross_entropy": float(sums.cross_entropy.sum() / inside),
        "outside": float(sums.outside.sum() / count.sum()),
        "left_out": float(sums.left_out / count.sum()),
        "own_loss": float(sums.own / sums.learned.clamp(min=1)),
        "accuracy": rounded(sums.correct / count),
        "reached": rounded(sums.reached / count),
        "walk": round(float(sums.walk_accepted / sums.walk_rounds.clamp(min=1)), 4),
        "weights": rounded(sums.weight / count),
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
