"""Training: tokens per second, peak memory beside the plan's estimate, and the objective's own memory.

python benchmarks/training.py --out benchmarks/results/training.json
python benchmarks/training.py --wide-objective --out benchmarks/results/objective-memory.json

At demo size on a CPU, in float32. `benchmarks/gpu.py` calls `at_qwen3_4b` on a GPU. Memory on a CPU is what torch's
allocator handed out at most (its profiler's record), beside what the process held resident.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3Config, Qwen3ForCausalLM

from paradraft import Objective
from paradraft.drafters import Batch, DFlash
from paradraft.evaluation.measure import environment
from paradraft.models import Target
from paradraft.objectives import Blocks
from paradraft.objectives.chunked_head import chunked_head
from paradraft.text.batches import batches_from
from paradraft.training import estimate
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer
from paradraft.training.meta_models import model_sizes, parameter_counts
from paradraft.training.plan import Shape, make_plan, matmul_rate, step_of

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


def tensor_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Of distinct storages."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def standing_bytes(trainer: Trainer) -> int:
    """Weights of target and drafter, the target's packed copies (they have no storage), and the optimiser's state."""
    states = [v for s in trainer.optimizer.state_dict() for of in s["state"].values() for v in of.values()]
    tensors = [*trainer.target.model.state_dict().values(), *trainer.drafter.state_dict().values()]
    packed = [getattr(module, "packed", None) for module in trainer.target.model.modules()]
    copies = sum(copy.numel() * copy.element_size() for copy in packed if isinstance(copy, torch.Tensor))
    return copies + tensor_bytes([*tensors, *(v for v in states if isinstance(v, torch.Tensor))])


def memory_against_plan(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The heaviest of some batches of a demo recipe: bytes measured and estimated."""
    with tempfile.TemporaryDirectory() as output:
        settings = [f"output={output}", "evaluation.prompts=[]", "data.limit=400", "drafter.init_from=null", *overrides]
        config = load_config(RECIPES / f"{name}.yaml", settings)
        trainer = Trainer(config, "never")
        trainer.train_step([0, 1])  # the optimiser's state exists from now on
        trainer.optimizer.zero_grad()
        longest = sorted(range(len(trainer.lengths)), key=lambda i: -trainer.lengths[i])[: config.training.batch_size]
        standing = standing_bytes(trainer)
        measured = standing + allocated_peak(lambda: trainer.train_step(longest))
        supervised = sum(sum(trainer.examples[i].loss_mask) for i in longest) / sum(trainer.lengths[i] for i in longest)
        shape = Shape(len(longest), trainer.lengths[longest[0]], supervised, False)
        estimated = planned(config, shape)
    return {
        "recipe": name,
        "length": trainer.lengths[longest[0]],
        "measured_bytes": measured,
        "estimated_bytes": estimated.peak,
        "estimated_to_measured": estimated.peak / measured,
        "standing_bytes": standing,
        "parts": vars(estimated),
    }


def planned(config: RunConfig, shape: Shape) -> estimate.Memory:
    plan = make_plan(config, 1, "cpu")
    assert plan.target is not None and plan.drafter is not None
    step = step_of(config, plan.target, plan.drafter, shape)
    return estimate.memory(plan.target, plan.drafter, step, config.training.optimizer)


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
    sizes = replace(model_sizes(target.config, parameter_counts(drafter)), layers=drafter_layers)
    model = model_sizes(target.config, parameter_counts(target.model))
    config = RunConfig.model_validate(
        {"drafter": {"layers": drafter_layers, "block_size": 16}, "training": {"anchors": anchors}}
    )
    work = sum(estimate.flops(model, sizes, step_of(config, model, sizes, Shape(1, length, 1.0, on_gpu))))
    return {
        "seconds": seconds,
        "tokens_per_second": length / best,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "flops": work,
        "matmul_flops_per_second": (rate := matmul_rate(device, half=on_gpu)),
        "utilisation": work / best / rate,
        "objective": [objective_memory(device, target, anchors, compiled=compiled) for compiled in (False, True)],
    }


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
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any]
    if arguments.wide_objective:
        target = wide_target()
        results = {"objective": [objective_memory("cpu", target, 512, compiled=c) for c in (False, True)]}
        finish(results, target, arguments.out)
        return
    results = {"memory": [memory_against_plan(name) for name in arguments.recipes]}
    results["speed"] = speed("demo-dpace", arguments.steps)
    results["resident_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    finish(results, Target.load(str(RECIPES.parent / "src/paradraft/assets/demo/target")), arguments.out)


def finish(results: dict[str, Any], target: Target, out: Path | None) -> None:
    results["environment"] = environment(target)
    print(json.dumps(results, indent=2))
    if out is not None:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
