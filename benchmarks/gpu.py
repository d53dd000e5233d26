"""Every GPU check and benchmark: `python benchmarks/gpu.py --out benchmarks/results/gpu.json`.

Random weights only, nothing is fetched. `--small` runs the same code at toy sizes, on a CPU too. The file is written
after every part, and a part that fails leaves its error there and does not keep the others from running.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import gpu_decoding  # the benchmarks beside this file
import objectives
import torch
import training
from transformers import Qwen3Config, Qwen3ForCausalLM

from paradraft import DFlash, Objective, Target
from paradraft.decoding.timing import seconds_of
from paradraft.drafters import DRAFTERS, Batch, attention, pard
from paradraft.drafters.attention import attend, attention_mask, dense_mask, dflash_predicate
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.evaluation.shapes import made_on
from paradraft.files import make_directory, write_text
from paradraft.objectives import Blocks
from paradraft.objectives.chunked_head import chunked_head
from paradraft.training.teacher import read_teacher


def random_target(small: bool, device: str, layers: int) -> Target:
    """Qwen3-4B's widths with few layers, or toy ones: training cost beside the target's forward is the drafter's."""
    sizes: dict[str, int] = (
        {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
        if small
        else {
            "vocab_size": 151936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_attention_heads": 32,
            "head_dim": 128,
        }
    )
    config = Qwen3Config(
        **sizes,
        num_hidden_layers=layers,
        num_key_value_heads=sizes["num_attention_heads"] // 4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    with made_on(device, torch.float32 if small else torch.bfloat16):
        return Target(Qwen3ForCausalLM(config))


def always_flex() -> Any:
    """Toy sizes take a dense mask otherwise."""
    return patch.object(attention, "DENSE_ENTRIES", 0)


def flex_equals_dense(device: str, small: bool) -> dict[str, Any]:
    """Largest difference between the flex block mask and the dense oracle, float32."""
    rows, context, blocks, size, heads, dim = (2, 96, 4, 4, 4, 16) if small else (2, 1024, 64, 16, 8, 128)
    torch.manual_seed(0)
    anchors = torch.randint(1, context, (rows, blocks), device=device).sort(1).values
    documents = torch.zeros(rows, context, dtype=torch.long, device=device)
    predicate = dflash_predicate(anchors, documents, size)
    queries, keys = blocks * size, context + blocks * size
    q = torch.randn(rows, heads, queries, dim, device=device)
    k, v = (torch.randn(rows, heads // 2, keys, dim, device=device) for _ in range(2))
    with always_flex():
        fast = attend(q, k, v, attention_mask(predicate, rows, queries, keys, q.device))
    oracle = attend(q, k, v, dense_mask(predicate, rows, queries, keys, q.device))
    difference = float((fast - oracle).abs().max())
    return {"largest_difference": difference, "passed": difference < 1e-3}


def pard_flex_equals_dense(device: str) -> dict[str, Any]:
    """PARD's training forward with a flex block mask against the dense oracle, float32."""
    target = random_target(True, device, 4)
    drafter = gpu_decoding.every_kind(target)["pard"]
    ids = torch.randint(1, 500, (2, 200), device=device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    grid = drafter.grid(batch, 200, [0, 1])
    features = torch.empty(2, 200, 0, device=device)
    with torch.no_grad():
        with always_flex():
            fast = drafter(grid, features)
        with patch.object(pard, "attention_mask", dense_mask):
            oracle = drafter(grid, features)
    difference = float((fast - oracle).abs().max())
    return {"largest_difference": difference, "passed": difference < 1e-3}


def timed(run: Callable[[], None], device: str, repeats: int = 5) -> tuple[float, int]:
    """Best seconds of `repeats` after two warm-ups, and the peak of allocated bytes."""
    for _ in range(2):
        run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    best = min(seconds_of(run, torch.device(device)) for _ in range(repeats))
    return best, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def training_step(device: str, small: bool, weighting: str) -> dict[str, Any]:
    """Seconds and peak memory of a drafter's forward and backward on one sequence, features given."""
    length, anchors, layers = (96, 8, 2) if small else (3072, 512, 5)
    target = random_target(small, device, 8)
    drafter = DFlash.fresh(target, layers=layers, block_size=16).float().train()
    ids = torch.randint(1, 500, (1, length), device=device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    features = torch.randn(1, length, len(drafter.feature_layers) * target.hidden_size, device=device)
    grid = drafter.grid(batch, anchors, seeds=[0])
    objective = Objective("ce", weighting, "weights" if weighting == "decay" else "anchors")

    def step() -> None:
        drafter.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            hidden = drafter(grid, features)
            sums = chunked_head(hidden, Blocks(grid.labels, grid.valid, grid.rows), drafter.head, objective)
        sums.loss.backward()

    seconds, peak = timed(step, device)
    return {"weighting": weighting, "seconds": seconds, "peak_bytes": peak, "length": length, "anchors": anchors}


def language_model_step(device: str, small: bool, kind: Literal["pard", "pard2", "vanilla"]) -> dict[str, Any]:
    """A whole step of a drafter that is a language model, target's forward included, in bfloat16 as runs do it.

    Sizes of Qwen3-0.6B drafting for the widths of Qwen3-4B; CAT weights, CE and KD, as PARD-2 was published.
    """
    target = random_target(small, device, 4)
    length, layers, width = (96, 2, 64) if small else (1024, 28, 1024)
    features = {"feature_layers": (0, 1, 2)} if kind == "pard2" else {}
    sizes = {"layers": layers, "hidden_size": width, "draft_length": 16}
    section = DRAFTERS[kind].section.model_validate({**sizes, **features})
    drafter = DRAFTERS[kind].create(section, target).train()
    ids = torch.randint(1, 500, (1, length), device=device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    grid, objective = drafter.grid(batch, length, [0]), Objective("ce_kd", "cat", "weights")
    loss = torch.zeros(())

    def step() -> None:
        nonlocal loss
        drafter.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            features, blocks = read_teacher(target, grid, drafter.feature_layers, objective)
            sums = chunked_head(drafter(grid, features), blocks, drafter.head, objective)
        sums.loss.backward()
        loss = sums.loss.detach() / sums.denominator

    seconds, peak = timed(step, device)
    gradients = [p.grad for p in drafter.parameters() if p.grad is not None]
    finite = bool(torch.isfinite(loss)) and all(bool(torch.isfinite(g).all()) for g in gradients)
    return {"kind": kind, "seconds": seconds, "peak_bytes": peak, "length": length, "passed": finite}


def language_model_steps(device: str, small: bool) -> dict[str, Any]:
    found: dict[str, Any] = {k: language_model_step(device, small, k) for k in ("vanilla", "pard", "pard2")}
    return {**found, "passed": all(step["passed"] for step in found.values())}


def training_at_scale(device: str, small: bool) -> dict[str, Any]:
    """Whole steps at Qwen3-4B's shapes, target included: tokens a second, utilisation, memory; D-PACE beside decay."""
    target = random_target(small, device, 4 if small else 36)
    length, anchors, layers = (96, 8, 2) if small else (3072, 512, 5)
    measured = training.at_qwen3_4b(target, layers, length, anchors, device)
    plain, compiled = measured["objective"]
    measured["passed"] = measured["compiled_equals_plain"] = all(
        abs(compiled[name] / plain[name] - 1) < 1e-3 for name in ("loss", "gradient_norm")
    )
    measured["dpace_to_decay"] = objectives.at_shapes(target, layers, length, anchors, device, 5 if small else 30)
    return measured


Part = Callable[[str, bool], dict[str, Any]]  # of the device and whether sizes are toys

PARTS: dict[str, Part] = {
    "flex_equals_dense": flex_equals_dense,
    "pard_flex_equals_dense": lambda device, small: pard_flex_equals_dense(device),
    "training_step": lambda device, small: {w: training_step(device, small, w) for w in ("decay", "dpace")},
    "language_model_steps": language_model_steps,
    "training": training_at_scale,
    **{f"decoding_{name}": lambda device, small, part=part: part(small) for name, part in gpu_decoding.PARTS.items()},
}


def attempt(part: Part, device: str, small: bool) -> dict[str, Any]:
    """What a part finds, or the error it ends with, and its seconds."""
    started = time.perf_counter()
    try:
        found = part(device, small)
    except Exception:  # whatever it is, the other parts are worth their time on the machine
        found = {"error": traceback.format_exc(), "passed": False}
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return {**found, "part_seconds": time.perf_counter() - started}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts; default: all")
    asked = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not asked.small:
        raise SystemExit("no GPU here; --small runs the same code at toy sizes")
    make_directory(asked.out.parent)
    results: dict[str, Any] = {"environment": environment(random_target(True, device, 2)), "small": asked.small}
    for name in asked.only:
        results[name] = attempt(PARTS[name], device, asked.small)
        print(name, json.dumps(results[name], indent=2), flush=True)
        write_text(asked.out, json.dumps(results, indent=2) + "\n")
    failed = [name for name in asked.only if not results[name].get("passed", True)]
    print("failed: " + ", ".join(failed) if failed else "all parts passed")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program("gpu.py", main)
