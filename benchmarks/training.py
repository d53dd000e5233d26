"""Training: tokens per second, peak memory of a run beside that of its plan, and the objective's own memory.

python benchmarks/training.py --out benchmarks/results/training.json
python benchmarks/training.py --wide-objective --out benchmarks/results/objective-memory.json

At demo size on a CPU, in float32. `benchmarks/gpu.py` calls `at_qwen3_4b` on a GPU. Memory of a run is what its process
held resident at most, that of the objective what torch's allocator handed out (its profiler's record).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from paradraft import Objective
from paradraft.drafters import Batch, DFlash
from paradraft.errors import run_program
from paradraft.evaluation.measure import environment
from paradraft.models import Target
from paradraft.objectives import Blocks
from paradraft.objectives.chunked_head import chunked_head
from paradraft.text.batches import batches_from
from paradraft.training.config import RunConfig, load_config
from paradraft.training.flops import step_flops
from paradraft.training.loop import Trainer
from paradraft.training.plan import make_plan, measure_steps, peak_memory

RECIPES = Path(__file__).parents[1] / "recipes"
DEMOS = ("demo-dpace", "demo-decay", "demo-pard", "demo-pard2", "demo-vanilla")


# --- memory on a CPU ------------------------------------------------------------------------------------------------


def allocated_peak(run: Callable[[], Any]) -> int:
    """Most bytes of torch's CPU allocator in use during `run`, above what was in use before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    results: Any = recorded.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


def memory_against_plan(name: str) -> dict[str, Any]:
    """Peak bytes of a demo recipe on 400 conversations: as its plan measures them, and over a pass of the run."""
    peaks = {}
    for what in ("plan", "run"):
        command = [sys.executable, __file__, "--peak-of", what, "--recipes", name]
        peaks[what] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "recipe": name,
        **{f"{what}_bytes": peak for what, peak in peaks.items()},
        "ratio": peaks["plan"] / peaks["run"],
    }


def print_peak(what: str, name: str) -> None:
    """In a process of its own, since a process's peak only ever rises."""
    with tempfile.TemporaryDirectory() as output:
        settings = [f"output={output}", "evaluation.prompts=[]", "data.limit=400", "drafter.init_from=null"]
        config = load_config(RECIPES / f"{name}.yaml", [*settings, "training.epochs=1"])
        if what == "plan":
            print(measure_steps(config, make_plan(config, 1, "cpu")).peak_bytes)
        else:
            Trainer(config, "never").run()
            print(peak_memory("cpu"))


# --- speed at demo size ---------------------------------------------------------------------------------------------


def speed(name: str, steps: int) -> dict[str, Any]:
    """Tokens of text and optimiser steps a second, by CPU time and by the clock, over batches of every length."""
    with tempfile.TemporaryDirectory() as output:
        config = load_config(RECIPES / f"{name}.yaml", [f"output={output}", "evaluation.prompts=[]"])
        trainer = Trainer(config, "never")
        batches = batches_from(trainer.lengths, config.training.batch_size, 0, 0)
        for _ in range(3):
            trainer.train_step(next(batches))
        chosen = [next(batches) for _ in range(steps)]
        tokens = sum(trainer.lengths[i] for indices in chosen for i in indices)
        wall, cpu = time.perf_counter(), time.process_time()
        for indices in chosen:
            trainer.train_step(indices)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "recipe": name,
        "steps": steps,
        "tokens": tokens,
        "tokens_per_second": tokens / wall,
        "tokens_per_cpu_second": tokens / cpu,
        "steps_per_cpu_second": steps / cpu,
    }


# --- the shapes of Qwen3-4B -----------------------------------------------------------------------------------------


def at_qwen3_4b(
    target: Target, drafter_layers: int, length: int, anchors: int, device: str, repeats: int = 5
) -> dict[str, Any]:
    """One sequence through target, drafter and objective: seconds, tokens a second, bytes, model FLOPs utilisation.

    Utilisation is of a plain bfloat16 matrix product measured in the same run, not of a data sheet.
    """
    drafter = DFlash.fresh(target, layers=drafter_layers, block_size=16).float().train()
    step = step_at_shapes(drafter, "dpace", length, anchors)
    on_gpu = device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    for _ in range(2):
        step()
    wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - started)
    best = min(seconds)
    config = RunConfig.model_validate({"training": {"anchors": anchors}})
    with torch.device("meta"):
        shapes = Target(AutoModelForCausalLM.from_config(target.model.config))
        work = DFlash.fresh(shapes, layers=drafter_layers, block_size=16)
    flops = sum(step_flops(config, work, length, length))
    return {
        "seconds": seconds,
        "tokens_per_second": length / best,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "flops": flops,
        "matmul_flops_per_second": (rate := matmul_rate(device, half=on_gpu)),
        "utilisation": flops / best / rate,
        "objective": [objective_memory(device, target, anchors, compiled=compiled) for compiled in (False, True)],
    }


def matmul_rate(device: str, half: bool) -> float:
    """Operations per second of a matrix product on this machine now; `half`: in bfloat16, else float32."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(4):
        wait()
        started = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def step_at_shapes(drafter: DFlash, weighting: str, length: int, anchors: int) -> Callable[[], None]:
    """Target, drafter, head and objective, forward and backward, on one random sequence; no optimiser."""
    target, device = drafter.target, drafter.target.device
    ids = torch.randint(1, 500, (1, length), device=device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids))
    grid = drafter.grid(batch, anchors, seeds=[0])
    objective = Objective("ce", weighting, "weights" if weighting == "decay" else "anchors")

    def step() -> None:
        drafter.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            features = target.features(ids, batch.document_ids, drafter.feature_layers)
            hidden = drafter(grid, features)
            sums = chunked_head(hidden, Blocks(grid.labels, grid.valid, grid.rows), drafter.head, objective)
        sums.loss.backward()

    return step


def objective_memory(
    device: str, target: Target, anchors: int, block_size: int = 16, compiled: bool = False
) -> dict[str, Any]:
    """Head and objective, forward and backward: peak bytes above the hidden states they start from, and seconds."""
    torch.manual_seed(0)
    steps, width = block_size - 1, target.hidden_size
    hidden = torch.randn(anchors, steps, width, device=device, dtype=target.dtype, requires_grad=True)
    labels = torch.randint(0, target.vocabulary_size, (anchors, steps), device=device)
    rows = torch.zeros(anchors, dtype=torch.long, device=device)
    blocks = Blocks(labels, torch.ones_like(labels, dtype=torch.bool), rows)

    objective = Objective("ce", "dpace", "anchors", compiled=compiled)

    def run() -> float:
        hidden.grad = None
        sums = chunked_head(hidden, blocks, target.head, objective)
        sums.loss.backward()
        return float(sums.loss.detach())  # waits for the device

    run()  # compiles, and allocates what later runs find
    started = time.perf_counter()
    loss = run()
    seconds = time.perf_counter() - started
    gradient = float(hidden.grad.float().norm()) if hidden.grad is not None else 0.0
    hidden.grad = None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        peak = allocated_peak(run)
    return {
        "compiled": compiled,
        "peak_bytes": peak,
        "seconds": seconds,
        "loss": loss,
        "gradient_norm": gradient,
        "anchors": anchors,
        "positions": anchors * steps,
        "dtype": str(target.dtype),
    }


def wide_target() -> Target:
    """Qwen3-4B's width and vocabulary, one small layer, random weights in float32: 1.6 GB."""
    sizes = {"hidden_size": 2560, "vocab_size": 151936, "num_attention_heads": 4, "num_key_value_heads": 1}
    config = Qwen3Config(**sizes, intermediate_size=256, num_hidden_layers=1, tie_word_embeddings=True)
    return Target(Qwen3ForCausalLM(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipes", nargs="+", default=list(DEMOS))
    parser.add_argument("--wide-objective", action="store_true", help="only the objective's memory at Qwen3-4B's width")
    parser.add_argument("--peak-of", choices=("plan", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.recipes[0])
        return
    results: dict[str, Any]
    if arguments.wide_objective:
        target = wide_target()
        results = {"objective": [objective_memory("cpu", target, 512, compiled=c) for c in (False, True)]}
        finish(results, target, arguments.out)
        return
    results = {"memory": [memory_against_plan(name) for name in arguments.recipes]}
    results["speed"] = speed("demo-dpace", arguments.steps)
    finish(results, Target.load(str(RECIPES.parent / "src/paradraft/assets/demo/model")), arguments.out)


def finish(results: dict[str, Any], target: Target, out: Path | None) -> None:
    results["environment"] = environment(target)
    print(json.dumps(results, indent=2))
    if out is not None:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_program("training.py", main)
