"""Two processes are one run: the same gradients, the same records, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paradraft.config import RunConfig
from paradraft.data.batches import collate
from paradraft.errors import UserError
from paradraft.training.loop import Trainer
from paradraft.training.processes import Processes
from paradraft.training.setup import check_processes

from .test_training import config_for, records
from .worker import do_run, do_step, launch

INDICES = [0, 5, 9, 18, 23]  # five over two processes: three and two
OBJECTIVES = {
    "dpace": {"weighting": "dpace"},
    "decay": {"weighting": "decay", "gamma": 3.0},
    "cat": {"weighting": "cat", "token_loss": "ce_kd"},
    "tokens": {"weighting": "uniform", "denominator": "tokens"},
}
SPLITS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp-micro": {"micro_batch_size": 1},
    "fsdp2": {"sharding": "fsdp2"},
    "fsdp2-target": {"sharding": "fsdp2", "target_sharding": "fsdp2", "micro_batch_size": 1},
}


def made(target: Path, data: Path, output: Path, objective: str = "dpace", **training: Any) -> RunConfig:
    config = config_for(target, data, output, **{"max_grad_norm": 1e9, "anchors": 20, **training})
    values = config.model_dump(mode="json") | {"objective": OBJECTIVES[objective]}
    return RunConfig.model_validate(values | {"target": {"model": str(target), "dtype": "float32"}})


def with_evaluation(config: RunConfig, prompts: Path) -> RunConfig:
    section = {"prompts": [str(prompts)], "every": 5, "max_new_tokens": 10, "batch_size": 2}
    return RunConfig.model_validate(config.model_dump(mode="json") | {"evaluation": section})


def job(name: str, config: RunConfig, do: str = "step", **more: Any) -> dict[str, Any]:
    return {"name": name, "config": config.model_dump(mode="json"), "do": do, **more}


def test_gradients_are_those_of_one_process(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    jobs, cases = [], []
    for objective in OBJECTIVES:
        for split, training in SPLITS.items():
            if split.startswith("fsdp2") and objective == "tokens":
                continue
            indices = INDICES[:4] if split.startswith("fsdp2") else INDICES
            config = made(target_directory, conversations, tmp_path / "x", objective, **training)
            jobs.append(job(f"{objective}-{split}", config, indices=indices))
            cases.append((objective, indices, f"{objective}-{split}"))
    results = launch(jobs, tmp_path / "out")
    assert cases
    for objective, indices, name in cases:
        alone = Trainer(made(target_directory, conversations, tmp_path / "y", objective), "never")
        anchors = [anchor_count(alone, indices[i::2]) for i in range(2)]
        assert anchors[0] != anchors[1], "the processes must hold different numbers of anchors"
        expected = do_step(alone, indices)
        for key in ("loss", "gradient_norm", "cross_entropy"):
            assert results[name]["record"][key] == pytest.approx(expected["record"][key], rel=1e-5), (name, key)
        assert results[name]["record"]["denominator"] == pytest.approx(expected["record"]["denominator"], rel=1e-5)
        assert results[name]["gradients"].keys() == expected["gradients"].keys()
        for parameter, gradient in expected["gradients"].items():
            size = float(gradient.abs().max())
            torch.testing.assert_close(results[name]["gradients"][parameter], gradient, rtol=1e-4, atol=1e-5 * size)


def anchor_count(trainer: Trainer, indices: list[int]) -> int:
    batch = collate([trainer.examples[i] for i in indices])
    grid = trainer.drafter.grid(batch, trainer.config.training.anchors, [1] * len(indices))
    return int(grid.valid.any(-1).sum())


def test_ten_and_ten_steps_are_twenty_in_two_processes(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path
) -> None:
    jobs = []
    for sharding in ("ddp", "fsdp2"):
        for name, steps in (("whole", 20), ("halved", 10), ("halved", 20)):
            settings = {"max_steps": 20, "save_every": 4, "sharding": sharding, "max_grad_norm": 1.0}
            config = made(target_directory, conversations, tmp_path / f"{name}-{sharding}", **settings)
            halted = {"stop_at": steps} if steps < 20 else {}
            jobs.append(job(f"{name}-{steps}-{sharding}", with_evaluation(config, prompts), "run", **halted))
    results = launch(jobs, tmp_path / "out")
    settings = {"max_steps": 20, "save_every": 4, "max_grad_norm": 1.0}
    alone = made(target_directory, conversations, tmp_path / "alone", **settings)
    alone_result = do_run(Trainer(with_evaluation(alone, prompts)))
    for sharding in ("ddp", "fsdp2"):
        whole, resumed = results[f"whole-20-{sharding}"], results[f"halved-20-{sharding}"]
        assert results[f"halved-10-{sharding}"]["progress"]["step"] == 10
        assert whole["progress"] == resumed["progress"]
        for name, tensor in whole["weights"].items():
            assert torch.equal(tensor, resumed["weights"][name])
            torch.testing.assert_close(tensor, alone_result["weights"][name], rtol=1e-2, atol=1e-3)
        one, two = tmp_path / f"whole-{sharding}", tmp_path / f"halved-{sharding}"
        for key in ("loss", "gradient_norm", "weights", "emitted_length", "acceptance_by_set"):
            assert records(one, key) == records(two, key)
        assert records(one, "loss") == pytest.approx(records(tmp_path / "alone", "loss"), rel=1e-3)
        assert records(one, "emitted_length") == pytest.approx(records(tmp_path / "alone", "emitted_length"), rel=0.05)
        assert same_files(one / "drafter", two / "drafter")


def same_files(one: Path, two: Path) -> bool:
    names = sorted(p.name for p in one.iterdir())
    same = all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    return same and names == sorted(p.name for p in two.iterdir())


def test_a_batch_that_cannot_be_shared_is_refused(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes()
    monkeypatch.setattr(processes, "count", 3)
    with pytest.raises(UserError, match="too small for 3 processes"):
        check_processes(made(target_directory, conversations, tmp_path, batch_size=2), 24, processes)
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        check_processes(made(target_directory, conversations, tmp_path, sharding="fsdp2"), 24, processes)
    check_processes(made(target_directory, conversations, tmp_path), 24, processes)
