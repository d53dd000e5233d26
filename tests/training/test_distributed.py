"""Two processes are one run: the same gradients, the same records, resumed to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from paradraft.drafters import load_drafter
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.text.batches import collate
from paradraft.training.config import RunConfig
from paradraft.training.distributed import Processes
from paradraft.training.loop import Trainer
from paradraft.training.setup import check_processes

from ..conftest import drafter_values, write_conversations, write_prompts
from .test_training import config_for, records
from .worker import do_run, do_step, launch

INDICES = [0, 5, 9, 18, 23]  # five over two processes: three and two
OBJECTIVES = {
    "dpace": {"weighting": "dpace"},
    "decay": {"weighting": "decay", "gamma": 3.0},
    "cat": {"weighting": "cat", "token_loss": "ce_kd"},
    "tokens": {"weighting": "uniform", "denominator": "tokens"},
    "visits": {"weighting": "dpace", "anchor_weighting": "visits"},
}
# Drafters with a loss or a head of their own, which the forward that is wrapped does not see.
KINDS_TOO = {
    "dflash2": {"weighting": "dpace"},
    "dflash2_tied": {"weighting": "dpace"},
    "dspark": {"token_loss": "ce_l1"},
    "eagle3": {"token_loss": "kl"},
}
SPLITS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp-micro": {"micro_batch_size": 1},
    "fsdp2": {"sharding": "fsdp2"},
    "fsdp2-target": {"sharding": "fsdp2", "target_sharding": "fsdp2", "micro_batch_size": 1},
}


def made(target: Path, data: Path, output: Path, objective: str = "dpace", **training: Any) -> RunConfig:
    config = config_for(target, data, output, **{"max_grad_norm": 1e9, "anchors": 20, **training})
    values = config.model_dump(mode="json") | {"objective": (OBJECTIVES | KINDS_TOO)[objective]}
    if objective in KINDS_TOO:
        values["drafter"] = drafter_values(objective, layers=1, block_size=4, draft_length=3)
    return RunConfig.model_validate(values | {"target": {"model": str(target), "dtype": "float32"}})


def with_evaluation(config: RunConfig, prompts: Path) -> RunConfig:
    section = {"prompts": [str(prompts)], "every": 5, "max_new_tokens": 10, "batch_size": 2}
    return RunConfig.model_validate(config.model_dump(mode="json") | {"evaluation": section})


def job(name: str, config: RunConfig, do: str = "step", **more: Any) -> dict[str, Any]:
    return {"name": name, "config": config.model_dump(mode="json"), "do": do, **more}


STEPS = [
    (objective, split)
    for objective, split in itertools.product(OBJECTIVES, SPLITS)
    if objective == "cat" or not split.startswith("fsdp2")
]
STEPS += itertools.product(KINDS_TOO, ["ddp-micro", "fsdp2"])
RUN = {"max_steps": 20, "save_every": 4, "max_grad_norm": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def results(target_directory: Path, folder: Path) -> dict[str, Any]:
    """Everything that two processes do, in one launch: starting them costs more than their work."""
    data, questions = write_conversations(folder / "train.jsonl"), write_prompts(folder / "prompts.jsonl")
    jobs = []
    for objective, split in STEPS:
        config = made(target_directory, data, folder / "step", objective, **SPLITS[split])
        jobs.append(job(f"{objective}-{split}", config, resume="never", indices=indices_of(split)))
    for sharding in ("ddp", "fsdp2"):
        for name, stop_at in (("whole", None), ("halved", 10), ("halved", None)):
            config = made(target_directory, data, folder / f"{name}-{sharding}", **RUN, sharding=sharding)
            title = f"{name}-{sharding}" + ("-first" if stop_at else "")
            jobs.append(job(title, with_evaluation(config, questions), "run", stop_at=stop_at))
    config = made(target_directory, data, folder / "sharded-target", **RUN, target_sharding="fsdp2")
    jobs.append(job("sharded-target", with_evaluation(config, questions), "run"))
    jobs.append(job("pruned-target", pruned(target_directory, data, folder, target_sharding="fsdp2"), "run"))
    return launch(jobs, folder / "out")


def pruned(target: Path, data: Path, folder: Path, **training: Any) -> RunConfig:
    """One step of a draft model that starts from the target's layers; its learning rate is nothing."""
    config = made(target, data, folder / "pruned-target", max_steps=1, learning_rate=1e-12, **training)
    values = drafter_values("vanilla", init_from="target", layers=2, share_embedding=True)
    return RunConfig.model_validate(config.model_dump(mode="json") | {"drafter": values})


def indices_of(split: str) -> list[int]:
    return INDICES[:4] if split.startswith("fsdp2") else INDICES


@pytest.mark.parametrize(("objective", "split"), STEPS)
def test_gradients_are_those_of_one_process(
    objective: str, split: str, results: dict[str, Any], target_directory: Path, folder: Path
) -> None:
    indices, result = indices_of(split), results[f"{objective}-{split}"]
    alone = Trainer(made(target_directory, folder / "train.jsonl", folder / "alone-step", objective), "never")
    anchors = [anchor_count(alone, indices[i::2]) for i in range(2)]
    assert anchors[0] != anchors[1], "the processes must hold different numbers of anchors"
    expected = do_step(alone, indices)
    for key in ("loss", "gradient_norm", "cross_entropy", "denominator"):
        assert result["record"][key] == pytest.approx(expected["record"][key], rel=1e-5), key
    assert result["gradients"].keys() == expected["gradients"].keys()
    for parameter, gradient in expected["gradients"].items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(result["gradients"][parameter], gradient, rtol=1e-4, atol=1e-5 * size)


def anchor_count(trainer: Trainer, indices: list[int]) -> int:
    batch = collate([trainer.examples[i] for i in indices])
    grid = trainer.drafter.grid(batch, trainer.config.training.anchors, [1] * len(indices))
    return int(grid.valid.any(-1).sum())


def test_ten_and_ten_steps_are_twenty_in_two_processes(
    results: dict[str, Any], target_directory: Path, folder: Path
) -> None:
    config = made(target_directory, folder / "train.jsonl", folder / "alone", **RUN)
    alone = do_run(Trainer(with_evaluation(config, folder / "prompts.jsonl")))
    for sharding in ("ddp", "fsdp2"):
        whole, resumed = results[f"whole-{sharding}"], results[f"halved-{sharding}"]
        assert results[f"halved-{sharding}-first"]["progress"]["step"] == 10
        assert whole["progress"] == resumed["progress"]
        for name, tensor in whole["weights"].items():
            assert torch.equal(tensor, resumed["weights"][name])
            torch.testing.assert_close(tensor, alone["weights"][name], rtol=1e-2, atol=1e-3)
        one, two = folder / f"whole-{sharding}", folder / f"halved-{sharding}"
        for key in ("loss", "gradient_norm", "weights", "emitted_length", "acceptance_by_set"):
            assert records(one, key) == records(two, key)
        assert records(one, "loss") == pytest.approx(records(folder / "alone", "loss"), rel=1e-3)
        assert records(one, "emitted_length") == pytest.approx(records(folder / "alone", "emitted_length"), rel=0.05)
        assert same_files(one / "drafter", two / "drafter")


def test_a_target_in_pieces_decodes_as_a_whole_one(results: dict[str, Any], folder: Path) -> None:
    assert results["sharded-target"]["progress"]["step"] == RUN["max_steps"]
    for key in ("loss", "emitted_length"):
        assert records(folder / "sharded-target", key) == pytest.approx(records(folder / "whole-ddp", key), rel=1e-3)


def test_a_draft_model_may_start_from_a_target_in_pieces(
    results: dict[str, Any], folder: Path, target_directory: Path
) -> None:
    assert results["pruned-target"]["progress"]["step"] == 1
    target = Target.load(str(target_directory))
    drafter: Any = load_drafter(folder / "pruned-target" / "drafter", target)
    for mine, theirs in zip(drafter.model.base_model.layers, (0, len(target.layers) - 1), strict=True):
        for a, b in zip(mine.parameters(), target.layers[theirs].parameters(), strict=True):
            torch.testing.assert_close(a, b)


def same_files(one: Path, two: Path) -> bool:
    names = sorted(p.name for p in one.iterdir())
    same = all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    return same and names == sorted(p.name for p in two.iterdir())


@pytest.mark.parametrize("index", [0, 1])
def test_a_mistake_that_the_main_process_finds_is_told_by_all(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    monkeypatch.setattr(processes, "world_size", 2)
    monkeypatch.setattr(processes, "rank", index)
    sent: list[Any] = []

    def broadcast(box: list[Any]) -> None:
        sent.append(box[0])
        box[0] = UserError("no such checkpoint")

    def fail() -> None:
        raise UserError("no such checkpoint")

    monkeypatch.setattr("torch.distributed.broadcast_object_list", broadcast)
    with pytest.raises(UserError, match="no such checkpoint"):
        processes.from_main(fail)
    assert len(sent) == 1 and isinstance(sent[0], UserError) == (index == 0)


def test_a_batch_that_cannot_be_shared_is_refused(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes()
    monkeypatch.setattr(processes, "world_size", 3)
    with pytest.raises(UserError, match="too small for 3 processes"):
        check_processes(made(target_directory, conversations, tmp_path, batch_size=2), 24, processes)
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        check_processes(made(target_directory, conversations, tmp_path, sharding="fsdp2"), 24, processes)
    check_processes(made(target_directory, conversations, tmp_path), 24, processes)
