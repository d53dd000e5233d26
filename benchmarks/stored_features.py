"""What 8 bits cost: one recipe trained online, on stored bfloat16 and on stored int8 features, judged by real decoding.

python benchmarks/stored_features.py recipes/demo-dpace.yaml --steps 500 --limit 2000 \
    --out benchmarks/results/stored-features.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from paradraft.commands.features import features
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer


def write_store(config: RunConfig, storage: str, out: Path) -> None:
    layers, data = config.drafter.feature_layers, config.data
    features(
        files=[source.source for source in data.sources],
        out=out,
        target=config.target.model,
        layers="auto" if layers == "auto" else ",".join(map(str, layers)),
        storage=storage,
        max_length=data.max_length,
        limit=data.limit,
        thinking=data.thinking,
        date=data.date,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--limit", type=int, default=2000, help="conversations")
    parser.add_argument("--prompts", type=int, default=32, help="prompts of each evaluation set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        for storage in ("online", "bfloat16", "int8"):
            stored = Path(directory) / storage
            for seed in arguments.seeds:
                overrides = [
                    f"training.max_steps={arguments.steps}",
                    f"training.seed={seed}",
                    f"evaluation.every={arguments.steps}",
                    f"evaluation.limit={arguments.prompts}",
                    f"data.limit={arguments.limit}",
                    f"output={directory}/run",
                ]
                if storage != "online":
                    if not stored.exists():
                        write_store(load_config(arguments.recipe, overrides), storage, stored)
                    overrides.append(f"data.features={stored}")
                started = time.time()
                trainer = Trainer(load_config(arguments.recipe, overrides), "never")
                length = trainer.run().best_emitted_length
                seconds = round(time.time() - started, 1)
                runs.append({"features": storage, "seed": seed, "emitted_length": length, "seconds": seconds})
                print(runs[-1], flush=True)
                result = {"steps": arguments.steps, "runs": runs, "environment": environment(trainer.target)}
                arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_program("stored_features.py", main)
