"""Drafters x weightings x token losses at equal budget: emitted length of every cell, several seeds, one table.

python benchmarks/objective_grid.py --steps 300 --seeds 1 2 3 --out benchmarks/results/objective-grid.json

Every cell trains the same number of steps on the same data and order, with its recipe's optimiser and one learning
rate for all; rates are not tuned per cell, and with Muon the scale of an objective does not change its steps. PARD
starts from the shipped plain draft model, DFlash from nothing: compare within a drafter, not across. Cells that are in
the file already are not run again; two processes need two files (`--only dflash`, `--only pard`), `--table FILE ...`
shows them together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.files import write_text
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
DRAFTERS = {
    "dflash": RECIPES / "demo-dpace.yaml",
    "pard": RECIPES / "demo-pard.yaml",
    "pard2": RECIPES / "demo-pard2.yaml",
}
WEIGHTINGS = ("uniform", "decay", "dpace", "cat")
TOKEN_LOSSES = ("ce", "ce_kd")


def train_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Emitted length by prompt set after the cell's steps."""
    with tempfile.TemporaryDirectory() as output:
        overrides = [
            f"objective.weighting={cell['weighting']}",
            f"objective.token_loss={cell['token_loss']}",
            "objective.denominator=auto",
            "objective.gamma=5.0",
            f"training.max_steps={cell['steps']}",
            f"training.seed={cell['seed']}",
            "training.precision=bfloat16",
            f"training.batch_size={cell['batch_size']}",
            *([] if cell["learning_rate"] is None else [f"training.learning_rate={cell['learning_rate']}"]),
            "training.save_every=1000000",
            f"evaluation.every={cell['steps']}",
            "evaluation.at_start=false",
            f"evaluation.limit={cell['prompts']}",
            "evaluation.batch_size=32",
            f"output={output}",
        ]
        config = load_config(DRAFTERS[cell["drafter"]], overrides)
        trainer = Trainer(config, "never")
        trainer.run()
        lines = (Path(output) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = [record for record in map(json.loads, lines) if "emitted_length_by_set" in record][-1]
        lengths: dict[str, Any] = last["emitted_length_by_set"]
        return lengths | {"environment": environment(trainer.target)}


def table(cells: list[dict[str, Any]]) -> str:
    """Mean over prompt sets, then mean and spread over seeds, as Markdown."""
    lines = ["| drafter | token loss | " + " | ".join(WEIGHTINGS) + " |", "|---|---|" + "---|" * len(WEIGHTINGS)]
    for drafter, token_loss in itertools.product(DRAFTERS, TOKEN_LOSSES):
        entries = []
        for weighting in WEIGHTINGS:
            wanted = {"drafter": drafter, "weighting": weighting, "token_loss": token_loss}
            means = [c["emitted_length"] for c in cells if wanted.items() <= c.items()]
            spread = f" ± {statistics.stdev(means):.2f}" if len(means) > 1 else ""
            entries.append(f"{statistics.mean(means):.2f}{spread} ({len(means)})" if means else "-")
        if set(entries) != {"-"}:
            lines.append(f"| {drafter} | {token_loss} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def show(paths: list[Path]) -> None:
    """One table for each budget found in the files."""
    cells = [cell for path in paths for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    budget = ("steps", "batch_size", "learning_rate", "prompts")
    for found in dict.fromkeys(tuple(cell[key] for key in budget) for cell in cells):
        steps, batch_size, rate, prompts = found
        rate = "the recipe's" if rate is None else rate
        print(f"\n{steps} steps of {batch_size} conversations, rate {rate}, {prompts} prompts of each set\n")
        print(table([cell for cell in cells if tuple(cell[key] for key in budget) == found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="show these files and train nothing")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="of all cells; default: each recipe's own")
    parser.add_argument("--prompts", type=int, default=32, help="of each demo prompt set")
    parser.add_argument("--only", choices=DRAFTERS, action="append")
    parser.add_argument("--weightings", choices=WEIGHTINGS, nargs="+", default=list(WEIGHTINGS))
    parser.add_argument("--token-losses", choices=TOKEN_LOSSES, nargs="+", default=list(TOKEN_LOSSES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.table:
        show(arguments.table)
        return
    if arguments.out is None:
        parser.error("--out or --table is needed")
    torch.set_num_threads(arguments.threads)
    cells: list[dict[str, Any]] = []
    if arguments.out.exists():
        cells = json.loads(arguments.out.read_text(encoding="utf-8"))["cells"]
    drafters = arguments.only or ["dflash", "pard"]
    for seed, drafter, token_loss, weighting in itertools.product(
        arguments.seeds, drafters, arguments.token_losses, arguments.weightings
    ):
        cell = {
            "drafter": drafter,
            "weighting": weighting,
            "token_loss": token_loss,
            "seed": seed,
            "steps": arguments.steps,
            "prompts": arguments.prompts,
            "batch_size": arguments.batch_size,
            "learning_rate": arguments.learning_rate,
        }
        if any(cell.items() <= done.items() for done in cells):
            continue
        lengths = train_cell(cell)
        where = lengths.pop("environment")
        cells.append(cell | {"emitted_length": statistics.mean(lengths.values()), "by_set": lengths})
        print(cells[-1], flush=True)
        write_text(arguments.out, json.dumps({"cells": cells, "environment": where}, indent=2) + "\n")
    show([arguments.out])


if __name__ == "__main__":
    run_program("objective_grid.py", main)
