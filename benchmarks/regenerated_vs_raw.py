"""What regenerating is worth: one recipe trained on raw answers and on the target's own, equal steps, several seeds.

paradraft data regenerate --target demo --prompts math.jsonl.gz --out own.jsonl --drafter demo:dflash-dpace
python benchmarks/regenerated_vs_raw.py recipes/demo-dpace.yaml --raw math.jsonl.gz --own own.jsonl \
    --prompts gsm8k.jsonl --steps 500 --out benchmarks/results/regenerated-vs-raw.json

Raw conversations that were left out of the regenerated file are left out of the raw one too, so that both runs read
answers to the same prompts. Emitted length is measured by real decoding after the last step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.text.conversations import BadRecord
from paradraft.text.sources import read_source, rows
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer


def first_question(messages: list[dict[str, str]]) -> str:
    return next(message["content"] for message in messages if message["role"] == "user")


def same_prompts(raw: Path, own: Path, out: Path) -> int:
    """Write the raw records whose prompts the target answered; how many there are."""
    asked = {first_question(list(c.messages)) for c in read_source(str(own)).conversations}
    records = (record for _, record in rows(str(raw)) if not isinstance(record, BadRecord))
    kept = [record for record in records if first_question(record["messages"]) in asked]
    out.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    return len(kept)


def emitted_lengths(
    recipe: Path, data: Path, seed: int, arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Any]]:
    """By prompt set, after the last step; and what it was measured on."""
    with tempfile.TemporaryDirectory() as output:
        overrides = [
            f"data.train=[{data}]",
            f"training.max_steps={arguments.steps}",
            f"training.seed={seed}",
            f"evaluation.every={arguments.steps}",
            f"evaluation.limit={arguments.limit}",
            f"evaluation.prompts=[{','.join(arguments.prompts)}]",
            f"output={output}",
        ]
        trainer = Trainer(load_config(recipe, overrides), "never")
        trainer.run()
        lines = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    lengths = [line["emitted_length_by_set"] for line in lines if "emitted_length_by_set" in line][-1]
    return dict(lengths), environment(trainer.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--raw", type=Path, required=True, help="conversations as they came")
    parser.add_argument("--own", type=Path, required=True, help="the same prompts, answered by the target")
    parser.add_argument("--prompts", nargs="+", required=True, help="prompt sets of the measurement")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--limit", type=int, default=64, help="prompts of each set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        raw = Path(directory) / "raw.jsonl"
        count = same_prompts(arguments.raw, arguments.own, raw)
        for seed in arguments.seeds:
            for name, data in (("raw", raw), ("regenerated", arguments.own)):
                lengths, where = emitted_lengths(arguments.recipe, data, seed, arguments)
                runs.append({"text": name, "seed": seed, "emitted_length": lengths})
                print(runs[-1], flush=True)
                result = {"steps": arguments.steps, "prompts": count, "runs": runs, "environment": where}
                arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in ("raw", "regenerated"):
        values = [mean(run["emitted_length"].values()) for run in runs if run["text"] == name]
        print(f"{name}: {mean(values):.3f} +- {stdev(values) if len(values) > 1 else 0:.3f} over {len(values)} seeds")


if __name__ == "__main__":
    run_program("regenerated_vs_raw.py", main)
