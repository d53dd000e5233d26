"""What D-PACE costs beside fixed decay: whole training steps of both, interleaved in one process.

python benchmarks/objectives.py --out benchmarks/results/objectives.json
python benchmarks/objectives.py --pair dpace compiled --out benchmarks/results/objectives-compiled.json

Both train on the same batches, pair by pair, with the order of a pair drawn by lot, so that what drifts on the machine
hits both. The ratio is the median over the pairs' own ratios (batches differ in length, the two steps of a pair do
not), with a 95% bootstrap interval over pairs; CPU time leaves out what other processes took.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training import step_at_shapes  # the benchmark beside this file

from paradraft.drafters import DFlash
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.models import Target
from paradraft.text.batches import batches_from
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "demo-dpace.yaml"
OBJECTIVES = {
    "decay": ["objective.weighting=decay", "objective.denominator=weights", "objective.gamma=5.0"],
    "dpace": ["objective.weighting=dpace", "objective.denominator=anchors"],
    "compiled": ["objective.weighting=dpace", "objective.denominator=anchors", "training.compile=true"],
}
RESAMPLES = 2000


def interleaved(
    first: Callable[[int], None], second: Callable[[int], None], pairs: int, clock: Callable[[], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of both for every pair; each is called with the number of the pair."""
    rng, seconds = random.Random(0), np.zeros((2, pairs))
    for pair in range(pairs):
        for which in rng.sample((0, 1), 2):
            started = clock()
            (first, second)[which](pair)
            seconds[which, pair] = clock() - started
    return seconds[0], seconds[1]


def median_ratio(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """second / first, pair by pair, with its 95% interval."""
    ratios = second / first
    samples = np.median(np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high)}


def measure(names: tuple[str, str], pairs: int, recipe: Path, overrides: list[str]) -> dict[str, Any]:
    """The second objective against the first, by their names in OBJECTIVES."""
    with tempfile.TemporaryDirectory() as output:
        shared = [*overrides, f"output={output}", "evaluation.prompts=[]"]
        one, other = (Trainer(load_config(recipe, [*shared, *OBJECTIVES[name]]), "never") for name in names)
        batches = batches_from(one.lengths, one.config.training.batch_size, 0, 0)
        chosen = [next(batches) for _ in range(pairs + 3)]
        for indices in chosen[pairs:]:  # warm-up
            one.train_step(indices), other.train_step(indices)
        wait = torch.cuda.synchronize if one.target.device.type == "cuda" else lambda: None

        def step(trainer: Trainer) -> Callable[[int], None]:
            def run(pair: int) -> None:
                trainer.train_step(chosen[pair])
                wait()

            return run

        clock = time.perf_counter if one.target.device.type == "cuda" else time.process_time
        first, second = interleaved(step(one), step(other), pairs, clock)
        return {
            f"{names[0]}_seconds": float(np.median(first)),
            f"{names[1]}_seconds": float(np.median(second)),
            f"{names[1]}_to_{names[0]}": median_ratio(first, second),
            "pairs": pairs,
            "clock": clock.__name__,
            "environment": environment(one.target),
        }


def at_shapes(
    target: Target, drafter_layers: int, length: int, anchors: int, device: str, pairs: int
) -> dict[str, float]:
    """The same comparison on one random sequence at given shapes (`benchmarks/gpu.py` calls it)."""
    drafter = DFlash.fresh(target, layers=drafter_layers, block_size=16).float().train()
    decay, dpace = (step_at_shapes(drafter, name, length, anchors) for name in ("decay", "dpace"))

    def timed(step: Callable[[], None]) -> Callable[[int], None]:
        def run(pair: int) -> None:
            step()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    for step in (decay, dpace):
        step()
    return median_ratio(*interleaved(timed(decay), timed(dpace), pairs, time.perf_counter))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=("decay", "dpace"), choices=OBJECTIVES, help="names")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(tuple(arguments.pair), arguments.pairs, arguments.recipe, arguments.overrides)
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_program("objectives.py", main)
