"""A study: cells (a drafter, an objective) trained with every seed at one budget and measured on the same prompts.

What a cell and a seed gave is one JSON file, written when it is complete; a study that was interrupted goes on with
the next one, and in the middle of a training with the checkpoint. Only emitted lengths are measured: they do not depend
on what else runs on the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from ..config import Section
from ..decoding import Engine, Generation, Sampling
from ..decoding.sampling import key_of
from ..drafters import Drafter, load_drafter
from ..errors import UserError
from ..evaluation.measure import check_first_turns, environment, first_turn_ids
from ..evaluation.prompts import PromptSet, load_prompt_sets
from ..evaluation.statistics import acceptance, ratio, resampled, rounds_and_tokens
from ..files import make_directory, read_json, write_text
from ..models import Target
from ..text.loops import is_looping
from .checkpoint import find_checkpoint, step_of
from .config import RunConfig, dump_config, load_config, means_the_same
from .loop import Report, Trainer

BUDGET = ("max_steps", "batch_size", "epochs")  # of `training`; as target and text the same in every cell
OTHER = "is of another configuration; choose another output, or remove the cell's file and its run"
TEXT = "was trained on text that has changed since; bring it back, or choose another output"
PROMPTS = "was measured on prompts that have changed since; choose another output, or remove the files of all cells"


class CellSection(Section):
    recipe: Path | None = Field(None, description="null: the study's")
    set: tuple[str, ...] = Field((), description="overrides behind the study's, section.key=value")


class MeasureSection(Section):
    prompts: tuple[str, ...] = Field(min_length=1, description="prompt sets, as --prompts takes them")
    limit: int | None = Field(None, ge=1, description="prompts of each set")
    temperatures: tuple[float, ...] = Field((0.0,), min_length=1)
    max_new_tokens: int = Field(128, ge=1)
    batch_size: int = Field(16, ge=1)


class StudySection(Section):
    recipe: Path = Field(description="the run that the cells change")
    set: tuple[str, ...] = Field((), description="overrides of every cell, section.key=value")
    cells: dict[str, CellSection] = Field(min_length=1, description="by name")
    baseline: str = Field(description="the cell that the others are compared with")
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="training.seed of each repetition")
    measure: MeasureSection
    output: Path = Path("runs/study")

    @model_validator(mode="after")
    def check(self) -> StudySection:
        if self.baseline not in self.cells:
            raise ValueError(f"baseline must be one of the cells {', '.join(self.cells)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ: the same seed twice is the same run")
        return self

    def run_of(self, cell: str, seed: int) -> RunConfig:
        section = self.cells[cell]
        output = json.dumps(str(self.output / "runs" / f"{cell}-{seed}"))  # quoted: `#` and `: ` mean something in YAML
        fixed = [f"training.seed={seed}", "evaluation.prompts=[]", f"output={output}"]
        try:
            return load_config(section.recipe or self.recipe, [*self.set, *section.set, *fixed])
        except UserError as error:
            raise UserError(f"cell {cell}: {error}") from None


def check_budgets(study: StudySection) -> dict[str, RunConfig]:
    """The cells with the first seed; UserError unless all of them train as long, on the same text, for one target."""
    runs = {name: study.run_of(name, study.seeds[0]) for name in study.cells}
    first = runs[study.baseline]
    if first.training.max_steps is None:
        raise UserError("a study needs training.max_steps, the budget of every cell")
    for name, run in runs.items():
        for what in BUDGET:
            if getattr(run.training, what) != getattr(first.training, what):
                raise UserError(
                    f"cell {name} has another training.{what} than {study.baseline}; a study compares equal budgets"
                )
        apart = {"features": None}  # their layers may differ
        if run.target != first.target or run.data.model_copy(update=apart) != first.data.model_copy(update=apart):
            raise UserError(f"cell {name} has another target or other text than {study.baseline}")
    return runs


class Study:
    """All cells and seeds of a configuration. `report` gets the records of the training that runs."""

    def __init__(self, study: StudySection) -> None:
        self.study = study
        self.runs = check_budgets(study)
        section = study.measure
        self.sets = load_prompt_sets(section.prompts, section.limit)
        self.target: Target | None = None
        self.texts: dict[int, str] = {}  # by seed, since a seed also chooses and packs: hashes of what cells train on

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Seed by seed, so that a study that is stopped early has whole comparisons."""
        return [(cell, seed) for seed in self.study.seeds for cell in self.study.cells]

    def file_of(self, cell: str, seed: int) -> Path:
        return self.study.output / "cells" / f"{cell}-{seed}.json"

    def steps_done(self, cell: str, seed: int) -> int:
        """Steps of its training that an earlier call has behind it, of one that is not complete."""
        found = find_checkpoint(self.study.run_of(cell, seed).output, "auto")
        return 0 if found is None else step_of(found)

    def run(self, cell: str, seed: int, report: Report = lambda record: None) -> dict[str, Any]:
        """Train and measure, or read what an earlier call wrote."""
        config, path = self.study.run_of(cell, seed), self.file_of(cell, seed)
        asked = {"run": dump_config(config), "measure": self.study.measure.model_dump(mode="json")}
        if path.is_file():
            found: dict[str, Any] = read_json(path)
            before = found["asked"]
            if before["measure"] != asked["measure"] or not means_the_same(before["run"], config):
                raise UserError(f"{path} {OTHER}")
            if {(m["prompts"], m["prompts_hash"]) for m in found["measured"]} != {(s.name, s.hash) for s in self.sets}:
                raise UserError(f"{path} {PROMPTS}")
            self.check_text(seed, found.get("texts"), path)  # of which older files know nothing
            return found
        begun = config.output / "config.yaml"
        if begun.is_file() and not means_the_same(begun.read_text(encoding="utf-8"), config):
            raise UserError(f"{config.output} {OTHER}")
        trainer = Trainer(config, "auto", report)
        self.check_text(seed, trainer.data.texts)
        for prompts in self.sets:
            check_first_turns(trainer.target, prompts, self.study.measure.max_new_tokens)
        seconds = self.train(trainer)
        started = time.perf_counter()
        self.target = trainer.target
        self.target.prepare_decoding()
        drafter = load_drafter(config.output / "drafter", self.target)
        result = {
            "cell": cell,
            "seed": seed,
            "asked": asked,
            "texts": trainer.data.texts,
            "parameters": sum(p.numel() for p in trainer.drafter.parameters()),
            "measured": self.decode_all(drafter),
            "seconds": {"training": seconds, "measuring": time.perf_counter() - started},
            "environment": environment(self.target),
        }
        make_directory(path.parent)
        write_text(path, json.dumps(result) + "\n")
        return result

    def check_text(self, seed: int, texts: str | None, path: Path | None = None) -> None:
        """Raise UserError if this is other text than the cells before had with this seed; `path`: an earlier cell's."""
        if texts is not None and self.texts.setdefault(seed, texts) != texts:
            raise UserError(f"{path or 'a cell that is done'} {TEXT}")

    def train(self, trainer: Trainer) -> float:
        """To the end; returns the seconds that all sessions of this run took together."""
        spent, started = trainer.config.output / "seconds.txt", time.perf_counter()
        before = float(spent.read_text(encoding="utf-8")) if spent.is_file() else 0.0
        make_directory(spent.parent)
        try:
            trainer.run()
        finally:
            seconds = before + time.perf_counter() - started
            write_text(spent, f"{seconds}\n")
        return seconds

    def decode_all(self, drafter: Drafter) -> list[dict[str, Any]]:
        """Rounds and tokens of every prompt, for each set, temperature and mode of the drafter."""
        return [
            {"prompts": prompts.name, "prompts_hash": prompts.hash, "temperature": temperature, "mode": mode}
            | figures(self.decode(drafter, prompts, temperature, mode), drafter.max_draft)
            for prompts in self.sets
            for temperature in self.study.measure.temperatures
            for mode in drafter.modes
        ]

    def decode(self, drafter: Drafter, prompts: PromptSet, temperature: float, mode: str) -> list[Generation]:
        """Answers to the first turns."""
        assert self.target is not None
        section = self.study.measure
        drafter.set_mode(mode)
        engine = Engine(self.target, drafter, Sampling(temperature), max_rows=section.batch_size)
        asked = first_turn_ids(self.target, prompts)
        return engine.generate(asked, section.max_new_tokens, seeds=[key_of(0, i) for i in range(len(asked))])


def figures(generations: Sequence[Generation], steps: int) -> dict[str, Any]:
    """Of each prompt its rounds, its tokens and whether its answer loops; of each position how much was accepted."""
    rounds, tokens = rounds_and_tokens(generations)
    shares = acceptance(generations, steps)
    return {
        "rounds": rounds.tolist(),
        "tokens": tokens.tolist(),
        "looping": [is_looping(g.tokens) for g in generations],
        "acceptance": shares.conditional,
        "unconditional_acceptance": shares.unconditional,
    }


# --- what came out -----------------------------------------------------------------------------------------------

Row = dict[str, Any]


def summary(trials: Sequence[dict[str, Any]], baseline: str) -> list[Row]:
    """A row for each cell, mode, prompt set and temperature.

    emitted_length: micro, the mean over the seeds; spread: its standard deviation; difference, low, high: from the
    baseline in its first mode, all seeds together, with the 95% bootstrap interval over prompts.
    """
    found: dict[tuple[str, str, str, float], list[tuple[np.ndarray, np.ndarray]]] = {}
    for trial in trials:
        for m in trial["measured"]:
            key = (trial["cell"], m["mode"], m["prompts"], m["temperature"])
            found.setdefault(key, []).append((np.array(m["rounds"]), np.array(m["tokens"])))
    first_mode = next((mode for cell, mode, _, _ in found if cell == baseline), None)
    rows = []
    for (cell, mode, prompts, temperature), seeds in found.items():
        lengths = [ratio(tokens, rounds) or 1.0 for rounds, tokens in seeds]
        row: Row = {"cell": cell, "mode": mode, "prompts": prompts, "temperature": temperature, "seeds": len(seeds)}
        row |= {
            "emitted_length": float(np.mean(lengths)),
            "spread": float(np.std(lengths, ddof=1)) if seeds[1:] else None,
        }
        base = found.get((baseline, first_mode or "", prompts, temperature), [])
        if (cell, mode) != (baseline, first_mode) and len(base) == len(seeds):
            row |= dict(zip(("difference", "low", "high"), paired(base, seeds), strict=True))
        rows.append(row)
    return rows


def paired(
    first: Sequence[tuple[np.ndarray, np.ndarray]], second: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float, float]:
    """Mean over seeds of the micro emitted length of `second` minus `first`; prompts are resampled, seeds are not."""
    index = resampled(len(first[0][0]))

    def lengths(seeds: Sequence[tuple[np.ndarray, np.ndarray]], of: Callable[[np.ndarray], Any]) -> Any:
        return np.mean([of(tokens) / np.maximum(of(rounds), 1) for rounds, tokens in seeds], axis=0)

    def resample(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[index].sum(1))

    low, high = np.percentile(lengths(second, resample) - lengths(first, resample), [2.5, 97.5])
    return float(lengths(second, np.sum) - lengths(first, np.sum)), float(low), float(high)
