"""The plan: sizes as they are in the built models, steps as the run takes them, and what cannot be known is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from paradraft import cli
from paradraft.models import Target
from paradraft.models.cpu_kernels import PackedLinear
from paradraft.models.names import ASSETS
from paradraft.training import estimate
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer
from paradraft.training.plan import make_plan, print_plan
from tests.conftest import drafter_values

from .test_training import config_for

RECIPES = Path(__file__).parents[2] / "recipes"
QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("kind", ["dflash", "pard", "pard2", "vanilla"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_counts_are_those_of_the_run(
    kind: str, optimizer: str, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run", optimizer=optimizer, max_steps=None)
    drafter = drafter_values(kind, layers=2, block_size=4, draft_length=4)
    config = RunConfig.model_validate(made.model_dump() | {"drafter": drafter})
    plan = make_plan(config, processes=1, device="cpu")
    trainer = Trainer(config)
    assert plan.unknown == [] and plan.drafter is not None and plan.target is not None and plan.data is not None
    assert plan.drafter.parameters == sum(p.numel() for p in trainer.drafter.parameters())
    assert plan.target.parameters == sum(p.numel() for p in trainer.target.model.parameters())
    assert plan.steps == trainer.steps and plan.data.lengths == trainer.lengths
    trainer.train_step([0, 1, 2, 3])
    state = [value for s in trainer.optimizer.state_dict() for of in s["state"].values() for value in of.values()]
    held = sum(v.numel() * v.element_size() for v in state if isinstance(v, torch.Tensor) and v.ndim)
    assert estimate.optimizer_bytes(plan.drafter, optimizer) == held


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")
def test_the_targets_packed_copies_are_counted(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    plan, target = make_plan(config, 1, "cpu"), Target.load(str(target_directory))
    packed = [m.packed for m in target.model.modules() if isinstance(m, PackedLinear) and m.packed is not None]
    weights = sum(p.numel() for p in target.model.parameters())
    assert plan.memory is not None and packed
    assert plan.memory.target == 4 * (weights + sum(copy.numel() for copy in packed))


def test_disk_bounds_what_a_run_leaves(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", save_every=1, keep_checkpoints=2)
    plan = make_plan(config, 1, "cpu")
    Trainer(config).run()
    assert plan.drafter is not None
    checkpoint, most = estimate.disk(plan.drafter, "adamw", 2)
    last = tmp_path / "run" / "checkpoints" / "step-8"
    written = sum((last / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    assert checkpoint < written < 1.5 * checkpoint  # headers weigh much in a tiny model
    assert most == 3 * (checkpoint + 4 * plan.drafter.parameters) + 4 * plan.drafter.parameters


def test_processes_share_the_work(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    alone, shared, cut = (
        make_plan(config_for(target_directory, conversations, tmp_path, sharding=sharding), count, "cpu")
        for count, sharding in ((1, "ddp"), (4, "ddp"), (4, "fsdp2"))
    )
    assert alone.memory is not None and shared.memory is not None and cut.memory is not None
    assert alone.step is not None and shared.step is not None
    assert (alone.step.rows, shared.step.rows) == (4, 1)
    assert shared.memory.training < alone.memory.training
    assert alone.step_flops == pytest.approx(shared.step_flops)


def test_a_large_target_is_planned_from_its_config_alone(conversations: Path, tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(QWEN3_4B))
    overrides = [f"target.model={tmp_path / 'qwen'}", f"data.train=[{conversations}]"]
    config = load_config(RECIPES / "qwen3-4b-5-layers-dpace.yaml", overrides)
    plan = make_plan(config, 8, "cuda")
    assert plan.target is not None and plan.drafter is not None and plan.memory is not None and plan.step is not None
    assert plan.target.parameters == pytest.approx(4.02e9, rel=0.01)
    assert plan.drafter.parameters == pytest.approx(538e6, rel=0.02)
    assert plan.step.positions == 512 * 15
    assert estimate.head_bytes(plan.drafter.vocabulary, plan.step) < 2 * 2**30
    assert 20e9 < plan.memory.peak < 80e9


@pytest.mark.parametrize(
    "mix", [(("few", 1), ("all", 1)), (("all", 2),), (("all", 0.5),), (("few", 3), ("all", 0.5))], ids=str
)
def test_conversations_are_counted_as_they_are_mixed_where_a_sample_is_rendered(
    mix: tuple[tuple[str, float], ...],
    target_directory: Path,
    conversations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "few").write_text("\n".join(conversations.read_text().splitlines()[:2]) + "\n")
    files = {"few": tmp_path / "few", "all": conversations}
    made = config_for(target_directory, conversations, tmp_path / "run").model_dump()
    made["data"]["train"] = [{"source": str(files[name]), "weight": weight} for name, weight in mix]
    config = RunConfig.model_validate(made)
    monkeypatch.setattr("paradraft.training.plan.SAMPLE", 6)
    plan = make_plan(config, 1, "cpu")
    assert plan.data is not None and plan.data.examples == len(Trainer(config).examples)


def test_a_target_that_is_no_causal_language_model_is_named(conversations: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    plan = make_plan(config_for(tmp_path, conversations, tmp_path / "run"), 1, "cpu")
    assert "is no causal language model" in plan.unknown[0]


def test_a_start_from_the_hub_is_planned_without_fetching_its_weights(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run")
    drafter = {"kind": "pard", "init_from": "owner/model"}
    config = RunConfig.model_validate(made.model_dump() | {"drafter": drafter})
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *name, **more: asked.append(name))
    plan = make_plan(config, 1, "cpu")
    assert not asked and "config.json of owner/model cannot be read" in plan.unknown[0]


def test_of_several_processes_one_prints_the_plan(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("paradraft.training.plan.make_plan", lambda *_: pytest.fail("a second process plans"))
    print_plan(config)


@pytest.mark.parametrize(
    ("token_loss", "weighting"), [("ce", "cat"), ("ce_kd", "cat"), ("kl", "dpace"), ("ce", "dpace")]
)
@pytest.mark.parametrize("entries", [2**26, 2**11])
def test_the_targets_head_is_counted_as_often_as_it_runs(
    token_loss: str,
    weighting: str,
    entries: int,
    target_directory: Path,
    conversations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("training.teacher", "training.estimate", "objectives.chunked_head"):
        monkeypatch.setattr(f"paradraft.{module}.ENTRIES_PER_CHUNK", entries)
    made = config_for(target_directory, conversations, tmp_path / "run", anchors=100).model_dump()
    drafter = {
        "kind": "pard",
        "layers": 1,
        "draft_length": 1,
    }  # with more, neighbouring chunks ask for some positions twice
    objective = {"token_loss": token_loss, "weighting": weighting}
    config = RunConfig.model_validate(made | {"drafter": drafter, "objective": objective})
    trainer, plan = Trainer(config), make_plan(config, 1, "cpu")
    counted: list[int] = []
    head = trainer.target.head
    monkeypatch.setattr(trainer.target, "head", lambda x: counted.append(x[..., 0].numel()) or head(x))
    trainer.train_step([23])
    assert plan.step is not None and plan.target is not None
    shape = replace(plan.step, rows=1, length=trainer.lengths[23], positions=sum(trainer.examples[23].loss_mask) - 1)
    assert sum(counted) == estimate.opinions(plan.target, shape)


def test_a_target_that_is_not_run_costs_no_time(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run").model_dump()
    stored = made | {"data": made["data"] | {"features": tmp_path}}
    plain = made | {"drafter": {"kind": "pard", "layers": 1}, "objective": {"weighting": "uniform"}}
    for values, runs in (
        (made, True),
        (stored, False),
        (plain, False),
        (plain | {"objective": {"weighting": "cat"}}, True),
    ):
        plan = make_plan(RunConfig.model_validate(values), 1, "cpu")
        assert plan.step_flops is not None and plan.memory is not None
        assert (plan.step_flops[0] > 0, plan.memory.reading > 0) == (runs, runs)


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    command = ["train", str(RECIPES / "qwen3-4b-5-layers-dpace.yaml"), "--plan", "--json"]
    command += [f"target.model={tmp_path / 'absent'}", f"data.train=[{tmp_path / 'absent.jsonl'}]"]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)
    assert plan["steps"] is None and plan["memory_bytes"] is None and plan["hours"] is None
    assert len(plan["unknown"]) == 2 and "absent" in plan["unknown"][0]


def test_the_demo_is_planned_without_weights(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "demo" / "target", tmp_path / "target", ignore=shutil.ignore_patterns("*.safetensors"))
    command = ["train", str(RECIPES / "demo-dpace.yaml"), "--plan", f"target.model={tmp_path / 'target'}"]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    section = load_config(RECIPES / "demo-dpace.yaml").training
    for words in (
        f"{section.max_steps:,} of {section.batch_size} conversations",
        "GiB a process",
        "disk",
        "TFLOP",
        "time",
    ):
        assert words in result.output


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_to_run_it(recipe: Path) -> None:
    load_config(recipe)
    assert f"train recipes/{recipe.name}" in recipe.read_text()
