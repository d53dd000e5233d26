"""One of several training processes of a test: `python -m tests.training.worker JOBS.json OUT`, started by `launch`.

A job is {"name", "config", "do": "step" or "run", ...}; the main process leaves OUT/name.pt.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from paradraft.training.config import RunConfig
from paradraft.training.distributed import full_tensor
from paradraft.training.loop import Trainer

ROOT = Path(__file__).parents[2]


def launch(jobs: list[dict[str, Any]], out: Path, processes: int = 2) -> dict[str, Any]:
    """Run the jobs in so many processes over gloo on 127.0.0.1; what each job left."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    shared |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.training.worker", str(out / "jobs.json"), str(out)]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | shared | {"RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(processes)
    ]
    try:
        codes = [process.wait(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0] * processes
    return {job["name"]: torch.load(out / f"{job['name']}.pt", weights_only=True) for job in jobs}


def do_step(trainer: Trainer, indices: list[int]) -> dict[str, Any]:
    """One step: its record, and the gradients as they were clipped."""
    record = trainer.train_step(indices)
    gradients = {
        name: full_tensor(p.grad).clone() for name, p in trainer.drafter.named_parameters() if p.grad is not None
    }
    return {"record": record, "gradients": gradients}


def do_run(trainer: Trainer, stop_at: int | None = None) -> dict[str, Any]:
    """A run to its end, or until the main process, and it alone, is asked to stop after a step."""

    def report(record: dict[str, Any]) -> None:
        if record["step"] == stop_at and "loss" in record and trainer.processes.is_main:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.report = report
    with contextlib.suppress(KeyboardInterrupt):
        trainer.run()
    with trainer.parallel.unsharded() as drafter:
        weights = {name: tensor.clone() for name, tensor in drafter.state_dict().items()}
    return {"weights": weights, "progress": vars(trainer.progress)}


def main(jobs: str, out: str) -> None:
    torch.set_num_threads(1)
    for job in json.loads(Path(jobs).read_text()):
        trainer = Trainer(RunConfig.model_validate(job["config"]), job.get("resume", "auto"))
        result = do_step(trainer, job["indices"]) if job["do"] == "step" else do_run(trainer, job.get("stop_at"))
        if trainer.processes.is_main:
            torch.save(result, Path(out) / f"{job['name']}.pt")
    trainer.processes.shut_down()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written: on a busy machine gloo's threads may abort an interpreter that takes itself apart
