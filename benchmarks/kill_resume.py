"""Kill training with SIGKILL again and again, half of the time while a checkpoint is written; it must lose nothing.

python benchmarks/kill_resume.py --kills 20 --out benchmarks/results/kill-resume.json

Every run is a fork of this process, which never trains itself: it pays for its imports once. The run that was killed
must end with the weights, the optimiser, the records and the best drafter of one that never was. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from paradraft.errors import run_program
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "demo-dpace.yaml"
SMALL = ["training.max_steps=24", "training.save_every=1", "training.batch_size=2", "training.log_every=1"]
SMALL += ["data.limit=64", "data.max_length=128", "evaluation.every=6", "evaluation.limit=2"]
SMALL += ["evaluation.max_new_tokens=16", "evaluation.prompts=[demo:math]"]


def start(config: RunConfig) -> int:
    """Train in a fork; its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            Trainer(config).run()
            code = 0
        finally:
            os._exit(code)
    return child


def finish(config: RunConfig) -> float:
    """Train to the end; seconds."""
    started = time.perf_counter()
    _, status = os.waitpid(start(config), 0)
    if status != 0:
        raise SystemExit("training failed; its message stands above")
    return time.perf_counter() - started


def writing(run: Path) -> bool:
    """Is a checkpoint or a drafter being written at this moment?"""
    return any(run.glob("checkpoints/.step-*")) or any(run.glob(".drafter.*"))


def newest_step(run: Path) -> int:
    steps = [int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def kill_once(config: RunConfig, rng: random.Random, seconds: float, in_write: bool) -> dict[str, Any] | None:
    """Start, wait, kill; with `in_write`, at some point of a write. None if the run was quicker."""
    run, child = config.output, start(config)
    delay = rng.uniform(0.3, 0.6) * seconds if not in_write else rng.uniform(0.2, 0.4) * seconds
    into_write = rng.uniform(0, 0.01)
    began = time.perf_counter()
    while True:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        if time.perf_counter() - began >= delay and (not in_write or writing(run)):
            time.sleep(into_write if in_write else 0)
            os.kill(child, signal.SIGSTOP)  # it cannot finish the write between the look and the kill
            during = writing(run)
            if during or not in_write:
                break
            os.kill(child, signal.SIGCONT)  # the write was shorter: go less far into the next one
            into_write /= 2
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return {"while_writing": during, "half_written": writing(run), "newest_step": newest_step(run)}


def contents(run: Path) -> dict[str, bytes | str]:
    """All that must be equal: the last checkpoint, the best drafter, the records but for the clock."""
    last = max((run / "checkpoints").glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
    found: dict[str, bytes | str] = {}
    for name, directory in (("checkpoint", last), ("drafter", run / "drafter")):
        files = [path for path in directory.rglob("*") if path.is_file()]
        found.update({f"{name}/{path.relative_to(directory)}": path.read_bytes() for path in files})
    found["last step"] = last.name
    records = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        records.append({k: v for k, v in record.items() if k not in ("time", "steps_per_second")})
    found["records"] = json.dumps(records)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="a recipe of your own; default: the demo's, cut down")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    overrides = SMALL if arguments.config is None else []
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as directory:
        whole, killed = (
            load_config(arguments.config or RECIPE, [*overrides, f"output={directory}/{name}"])
            for name in ("whole", "killed")
        )
        seconds = finish(whole)
        kills: list[dict[str, Any]] = []
        while len(kills) < arguments.kills:
            kill = kill_once(killed, rng, seconds, in_write=len(kills) % 2 == 0)
            if kill is None:  # it reached the end: begin another run, the kills of this one have been survived
                compare(whole.output, killed.output)
                shutil.rmtree(killed.output)
                continue
            kills.append(kill)
            print(f"kill {len(kills)}: {kill}", flush=True)
        finish(killed)
        compare(whole.output, killed.output)
    result = {
        "kills": len(kills),
        "while_writing": sum(k["while_writing"] for k in kills),
        "equal": True,
        "runs": kills,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def compare(whole: Path, killed: Path) -> None:
    one, two = contents(whole), contents(killed)
    different = [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
    if different:
        sys.exit(f"the killed run ended with other {', '.join(sorted(different))}")


if __name__ == "__main__":
    run_program("kill_resume.py", main)
