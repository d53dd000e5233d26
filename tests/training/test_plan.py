"""The plan: counts are those of the built models, measurements those of a run, and what cannot be known is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typer.testing import CliRunner

from paradraft import cli
from paradraft.commands.train import print_plan
from paradraft.errors import UserError
from paradraft.models import names
from paradraft.models.names import ASSETS, weights_are_here
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer
from paradraft.training.plan import make_plan, measure_steps

from ..conftest import KINDS, drafter_values
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


def config_of(kind: str, target: Path, data: Path, output: Path, **training: Any) -> RunConfig:
    made = config_for(target, data, output, **training)
    drafter = drafter_values(kind, layers=2, block_size=4, draft_length=4, cod_ratio=1.0)
    return RunConfig.model_validate(made.model_dump() | {"drafter": drafter})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_counts_are_those_of_the_run(
    kind: str, optimizer: str, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    config = config_of(kind, target_directory, conversations, tmp_path / "run", optimizer=optimizer, max_steps=None)
    plan = make_plan(config, processes=1, device="cpu")
    trainer = Trainer(config)
    assert plan.unknown == []
    assert plan.drafter_parameters == sum(p.numel() for p in trainer.drafter.parameters())
    assert plan.target_parameters == sum(p.numel() for p in trainer.target.model.parameters())
    assert plan.steps == trainer.steps and plan.examples == len(trainer.examples)
    assert plan.mean_length == sum(trainer.lengths) / len(trainer.lengths)
    trainer.train_step([0, 1, 2, 3])
    state = [value for s in trainer.optimizer.state_dict() for of in s["state"].values() for value in of.values()]
    held = sum(v.numel() * v.element_size() for v in state if isinstance(v, torch.Tensor) and v.ndim)
    assert trainer.optimizer.state_bytes == held
    assert plan.standing_bytes == 4 * plan.target_parameters + 8 * plan.drafter_parameters + held


def test_a_reduced_vocabulary_makes_an_own_head_smaller(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    made = config_of("eagle3", target_directory, conversations, tmp_path / "run")
    config = made.model_copy(update={"drafter": made.drafter.model_copy(update={"vocabulary": 20})})
    assert make_plan(config, 1, "cpu").drafter_parameters == sum(
        p.numel() for p in Trainer(config).drafter.parameters()
    )


class Counter(TorchDispatchMode):
    """Operations of a real step as torch counts them; of attention's backward pass without what it computes again."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function)
        if "attention_for_cpu" in name:
            query, key = args[1:3] if "backward" in name else args[:2]
            self.total += (8 if "backward" in name else 4) * query.numel() * key.shape[2]
        elif function._overloadpacket in flop_registry:
            self.total += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@pytest.mark.parametrize("weighting", ["dpace", "cat"])
@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_that_torch_counts(
    kind: str, weighting: str, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text(conversations.read_text().splitlines()[-1] + "\n")
    made = config_of(kind, target_directory, tmp_path / "one.jsonl", tmp_path / "run", anchors=100, batch_size=1)
    objective = {"weighting": weighting, "token_loss": "ce_kd" if weighting == "cat" else "ce"}
    config = RunConfig.model_validate(made.model_dump() | {"objective": objective})
    plan, trainer = make_plan(config, 1, "cpu"), Trainer(config)
    with Counter() as counted:
        trainer.train_step([0])
    assert plan.step_flops is not None
    assert sum(plan.step_flops) == counted.total


@pytest.mark.parametrize("experts", [2, 4])
def test_a_token_costs_what_its_experts_cost(experts: int, tmp_path: Path) -> None:
    drafter = {"kind": "dflash", "layers": 1, "block_size": 4, "mask_token": 1}
    sizes = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": experts, "decoder_sparse_step": 1}
    shutil.copytree(
        ASSETS / "demo" / "model", tmp_path, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
    )
    kept = {name: QWEN3_4B[name] for name in ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")}
    written = {"model_type": "qwen3_moe", "hidden_size": 64, "head_dim": 2, "num_hidden_layers": 3, "vocab_size": 4096}
    (tmp_path / "config.json").write_text(
        json.dumps(kept | written | sizes | {"architectures": ["Qwen3MoeForCausalLM"]})
    )
    data = {"train": ["demo:train"], "limit": 1}
    values = {"target": {"model": str(tmp_path)}, "drafter": drafter, "data": data, "training": {"batch_size": 1}}
    plan = make_plan(RunConfig.model_validate(values), 1, "cpu")
    assert plan.step_flops is not None
    length, layers = round(plan.mean_length), 3
    projections = 64 * 2 * (32 + 8 + 8 + 32)
    of_token = projections + 64 * 4 + experts * 3 * 64 * 8  # with the router
    assert plan.step_flops[0] == layers * (2 * length * of_token + 4 * length**2 * 64)


def test_a_model_that_cannot_run_without_weights_has_a_plan_all_the_same(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks_at_numbers(drafter: Any, grid: Any, features: torch.Tensor) -> torch.Tensor:
        return features * float(features.sum())

    monkeypatch.setattr("paradraft.drafters.dflash.DFlash.forward", looks_at_numbers)
    plan = make_plan(config_of("dflash", target_directory, conversations, tmp_path / "run"), 1, "cpu")
    assert plan.step_flops is None and plan.standing_bytes and "the operations of a step: " in plan.unknown[0]


def test_disk_bounds_what_a_run_leaves(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", save_every=1, keep_checkpoints=2)
    plan = make_plan(config, 1, "cpu")
    Trainer(config).run()
    weights, moments = 4 * plan.drafter_parameters, 8 * plan.drafter_parameters
    last = tmp_path / "run" / "checkpoints" / "step-8"
    written = sum((last / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    assert weights + moments < written < 1.5 * (weights + moments)  # headers weigh much in a tiny model
    assert plan.disk_bytes == 3 * (2 * weights + moments) + weights  # checkpoints also keep the best drafter


def test_processes_share_what_stands(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    alone, whole, sharded = (
        make_plan(config_for(target_directory, conversations, tmp_path, sharding=sharding), count, "cpu")
        for count, sharding in ((1, "ddp"), (4, "ddp"), (4, "fsdp2"))
    )
    assert alone.standing_bytes == whole.standing_bytes
    assert sharded.standing_bytes == 4 * alone.target_parameters + 16 * alone.drafter_parameters // 4
    assert alone.step_flops == whole.step_flops


def test_a_large_target_is_planned_without_its_weights(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    shutil.copytree(target_directory, tmp_path / "qwen", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(QWEN3_4B))
    overrides = [f"target.model={tmp_path / 'qwen'}", f"data.train=[{conversations}]"]
    config = load_config(RECIPES / "qwen3-4b-5-layers-dpace.yaml", overrides)
    plan = make_plan(config, 8, "cuda")
    assert plan.target_parameters == pytest.approx(4.02e9, rel=0.01)
    assert plan.drafter_parameters == pytest.approx(538e6, rel=0.02)
    assert plan.standing_bytes == 2 * plan.target_parameters + 16 * plan.drafter_parameters
    with pytest.raises(UserError, match=r"the weights of .*qwen are not on this machine"):
        measure_steps(config, plan)
    with pytest.raises(UserError, match="TB are needed and"):
        measure_steps(RunConfig(), replace(plan, device="cpu", standing_bytes=10**15))


MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path
from paradraft.training.config import load_config
from paradraft.training.loop import Trainer
from paradraft.training.plan import make_plan, measure_steps, peak_memory
config = load_config(Path(sys.argv[1]))
if sys.argv[2] == "plan":
    print(measure_steps(config, make_plan(config, 1, "cpu")).peak_bytes)
else:
    Trainer(config).run()
    print(peak_memory("cpu"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of resident memory is counted otherwise")
def test_the_measured_peak_is_that_of_the_run(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run", batch_size=16, anchors=200, max_steps=12)
    values = made.model_dump(mode="json") | {"drafter": {"layers": 8, "block_size": 16}}
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    peaks = []
    for what in ("plan", "run"):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "run.yaml"), what]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        assert (tmp_path / "run").exists() == (what == "run")  # a plan leaves nothing
    assert peaks[0] == pytest.approx(peaks[1], rel=0.15)


def test_a_target_that_is_no_causal_language_model_is_named(conversations: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=f"target {tmp_path} cannot be loaded"):
        make_plan(config_for(tmp_path, conversations, tmp_path / "run"), 1, "cpu")


@pytest.mark.parametrize("kind", ["dflash", "eagle3", "pard", "pard2"])
def test_a_start_from_the_hub_is_planned_without_fetching_its_weights(
    kind: str, target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = config_of(kind, target_directory, conversations, tmp_path / "start", max_steps=1)
    Trainer(start).run()
    asked: list[str] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        left_out = shutil.ignore_patterns("model.safetensors")
        return str(shutil.copytree(tmp_path / "start/drafter", tmp_path / "here", False, left_out, dirs_exist_ok=True))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(names, "check_found", lambda name, what: None)
    section = start.drafter.model_copy(update={"init_from": "owner/model"})
    config = start.model_copy(update={"drafter": section, "output": tmp_path / "run"})
    plan = make_plan(config, 1, "cpu")
    assert "*.json" in asked and not any("safetensors" in pattern for pattern in asked)
    assert plan.drafter_parameters == make_plan(start, 1, "cpu").drafter_parameters
    assert not weights_are_here("owner/model")
    with pytest.raises(UserError, match="the weights of owner/model are not on this machine"):
        measure_steps(config, plan)


@pytest.mark.parametrize("share", [False, True])
def test_a_drafter_has_the_size_of_the_model_it_starts_from(
    share: bool, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    start = config_of("vanilla", target_directory, conversations, tmp_path / "start", max_steps=1)
    size = {"share_embedding": True} if share else {"hidden_size": 16}
    start = start.model_copy(update={"drafter": start.drafter.model_copy(update=size)})
    Trainer(start).run()
    section = {"kind": "pard2", "init_from": str(tmp_path / "start" / "drafter"), "share_embedding": share}
    values = start.model_dump() | {"drafter": section}
    config = RunConfig.model_validate(values | {"output": tmp_path / "run"})
    built = Trainer(config).drafter
    assert make_plan(config, 1, "cpu").drafter_parameters == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_is_planned_as_the_one_it_starts_from(
    kind: str, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    start = config_of(kind, target_directory, conversations, tmp_path / "start", max_steps=1)
    start = start.model_copy(update={"drafter": start.drafter.model_copy(update={"vocabulary": 20})})
    Trainer(start).run()
    section = start.drafter.model_copy(update={"init_from": str(tmp_path / "start" / "drafter"), "layers": None})
    config = start.model_copy(update={"drafter": section, "output": tmp_path / "run"})
    built = Trainer(config).drafter
    assert make_plan(config, 1, "cpu").drafter_parameters == sum(p.numel() for p in built.parameters())


def test_a_start_from_the_target_is_measured(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run").model_dump()
    config = RunConfig.model_validate(made | {"drafter": {"kind": "vanilla", "init_from": "target", "layers": 2}})
    assert measure_steps(config, make_plan(config, 1, "cpu")).step_seconds


def test_of_several_processes_one_prints_the_plan(
    target_directory: Path,
    conversations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    print_plan(config)
    assert not capsys.readouterr().out


def test_a_target_that_is_not_run_costs_no_operations(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run").model_dump()
    stored = made | {"data": made["data"] | {"features": tmp_path}}
    plain = made | {"drafter": {"kind": "pard", "layers": 1}, "objective": {"weighting": "uniform"}}
    cat = plain | {"objective": {"weighting": "cat"}}
    for values, runs in ((made, True), (stored, False), (plain, False), (cat, True)):
        plan = make_plan(RunConfig.model_validate(values), 1, "cpu")
        assert plan.step_flops is not None and (plan.step_flops[0] > 0) == runs


@pytest.mark.parametrize("absent", ["target", "data"])
def test_a_plan_without_target_or_text_ends_in_one_sentence(absent: str, conversations: Path, tmp_path: Path) -> None:
    target = tmp_path / "absent" if absent == "target" else "demo"
    data = tmp_path / "absent.jsonl" if absent == "data" else conversations
    recipe = str(RECIPES / "demo-dpace.yaml")
    result = CliRunner().invoke(cli.app, ["train", recipe, "--plan", f"target.model={target}", f"data.train=[{data}]"])
    assert isinstance(result.exception, UserError) and "absent" in str(result.exception)


def test_a_plan_is_json_too(target_directory: Path, tmp_path: Path) -> None:
    command = ["train", str(RECIPES / "demo-dpace.yaml"), "--plan", "--json", "data.limit=20", f"output={tmp_path}"]
    plan = json.loads(CliRunner().invoke(cli.app, command).stdout)
    assert plan["examples"] == 20 and plan["step_seconds"] > 0 and len(plan["step_flops"]) == 3 and not plan["unknown"]


@pytest.mark.parametrize("weights", [True, False])
def test_the_demo_is_planned_with_and_without_weights(weights: bool, tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns() if weights else shutil.ignore_patterns("*.safetensors")
    shutil.copytree(ASSETS / "demo" / "model", tmp_path / "target", ignore=left_out)
    command = ["train", str(RECIPES / "demo-dpace.yaml"), "--plan", f"target.model={tmp_path / 'target'}"]
    result = CliRunner().invoke(cli.app, [*command, "data.limit=200"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    section = load_config(RECIPES / "demo-dpace.yaml").training
    for words in (f"{section.max_steps:,} of {section.batch_size} conversations", "B a process, ", "disk", "TFLOP"):
        assert words in result.output
    assert ("s a step, measured here" in result.output) == weights
    assert ("are not on this machine" in result.output) != weights


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_to_run_it(recipe: Path) -> None:
    load_config(recipe)
    assert f"train recipes/{recipe.name}" in recipe.read_text()
