"""What COD saves: time and peak memory of one PARD training step, with it, without it, and laid out naively.

python benchmarks/pard_cost.py --out benchmarks/results/pard-cost.json

Every way runs in a process of its own, whose peak resident memory above its start is what counts. *naive*: all K
offsets of every position as queries of one dense mask, the published layout; *kept*: only valid steps without COD;
*cod*: with COD (r 0.7, r_min 0.1). Random weights, one text of S tokens.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from paradraft.drafters import Batch, Pard
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.files import write_text
from paradraft.models import Target
from paradraft.models.target import run_decoder
from paradraft.objectives import Blocks, Objective
from paradraft.objectives.chunked_head import chunked_head

WAYS = ("cod", "kept", "naive")
VOCABULARY = 4096


def language_model(layers: int, hidden: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 3 * hidden}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": max(1, hidden // 128), "head_dim": 64}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes, **heads))


def naive_hidden(drafter: Pard, ids: torch.Tensor) -> torch.Tensor:
    """Hidden states [S, K, H] from S * K queries at once; a draft that would start before the text sees itself."""
    length, steps = ids.shape[1], drafter.max_draft
    offset, position = torch.arange(length * steps) // length, torch.arange(length * steps) % length
    anchor = position - offset
    text = (offset == 0)[None] & (position[None] <= anchor[:, None])
    own = (anchor[None] == anchor[:, None]) & (offset[None] <= offset[:, None]) & (offset > 0)[None]
    tokens = torch.where(offset == 0, ids[0, position], drafter.mask_token)
    inputs = drafter.inputs(tokens[None], torch.empty(1, length * steps, 0))
    visible = text | own
    hidden = run_decoder(
        drafter.model.base_model, {"inputs_embeds": inputs}, position[None], visible[None], drafter.dtype, None
    )
    at = torch.arange(steps)[None] * length + (torch.arange(length)[:, None] + torch.arange(steps)).clamp(
        max=length - 1
    )
    return hidden[0, at]


def measure(way: str, length: int, steps: int, layers: int, hidden: int) -> dict[str, Any]:
    target = Target(language_model(1, 64))
    drafter = Pard(language_model(layers, hidden), target, steps, VOCABULARY - 1).train()
    if way != "cod":
        drafter.cod_ratio = 1.0
    ids = torch.randint(1, VOCABULARY - 1, (1, length))
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    objective = Objective("ce", "uniform", "tokens")

    def step() -> int:
        grid = drafter.grid(batch, length, [0])
        blocks = Blocks(grid.labels, grid.valid, grid.rows)
        if way == "naive":
            states = naive_hidden(drafter, ids)[grid.anchors]
        else:
            states = drafter(grid, torch.empty(1, length, 0))
        chunked_head(states, blocks, drafter.head, objective).loss.backward()
        drafter.zero_grad()
        return int(grid.valid.sum())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queries = step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    step()
    return {
        "way": way,
        "queries": length * steps if way == "naive" else queries,
        "seconds": time.perf_counter() - started,
        "peak_mib_above_start": (peak - before) / 1024,
        "environment": environment(target),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=16, help="K")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help="run this one and print it as JSON")
    arguments = parser.parse_args()
    sizes = (arguments.length, arguments.steps, arguments.layers, arguments.hidden)
    if arguments.way:
        print(json.dumps(measure(arguments.way, *sizes)))
        return
    results = []
    for way in WAYS:
        options = [
            f"--{name}={value}" for name, value in zip(("length", "steps", "layers", "hidden"), sizes, strict=True)
        ]
        done = subprocess.run(
            [sys.executable, __file__, "--way", way, *options], capture_output=True, text=True, check=True
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print({k: v for k, v in results[-1].items() if k != "environment"}, flush=True)
    if arguments.out:
        where = results[0]["environment"]
        runs = [{k: v for k, v in r.items() if k != "environment"} for r in results]
        named = dict(zip(("length", "draft_length", "layers", "hidden"), sizes, strict=True))
        write_text(arguments.out, json.dumps({**named, "runs": runs, "environment": where}, indent=2) + "\n")


if __name__ == "__main__":
    run_program("pard_cost.py", main)
