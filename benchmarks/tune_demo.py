"""Learning rate and clip of a demo recipe, every pair for the same few steps, judged by real decoding.

python benchmarks/tune_demo.py recipes/demo-dpace.yaml --out benchmarks/results/tune-dpace.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import torch

from paradraft.errors import run_program
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3])
    parser.add_argument("--clips", type=float, nargs="+", default=[0.5, 5.0])
    parser.add_argument("--prompts", type=int, default=32, help="of each set")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for rate, clip in itertools.product(arguments.learning_rates, arguments.clips):
        with tempfile.TemporaryDirectory() as output:
            overrides = [
                f"training.learning_rate={rate}",
                f"training.max_grad_norm={clip}",
                f"training.max_steps={arguments.steps}",
                f"training.precision={arguments.precision}",
                f"evaluation.every={arguments.steps}",
                "evaluation.at_start=false",
                f"evaluation.limit={arguments.prompts}",
                "evaluation.batch_size=32",
                f"output={output}",
            ]
            progress = Trainer(load_config(arguments.recipe, overrides), "never").run()
        results.append({"learning_rate": rate, "max_grad_norm": clip, "emitted_length": progress.best_emitted_length})
        print(results[-1], flush=True)
        arguments.out.write_text(json.dumps({"steps": arguments.steps, "runs": results}, indent=2) + "\n")


if __name__ == "__main__":
    run_program("tune_demo.py", main)
