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
from paradraft.commands.plan import print_plan
from paradraft.errors import UserError
from paradraft.models.names import ASSETS
from paradraft.training.config import RunConfig, load_config
from paradraft.training.loop import Trainer
from paradraft.training.meta_models import meta_drafter, meta_target
from paradraft.training.plan import make_plan, measure_steps, optimizer_bytes, weights_are_here

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
    assert plan.unknown == [] and plan.data is not None
    assert plan.drafter_parameters == sum(p.numel() for p in trainer.drafter.parameters())
    assert plan.target_parameters == sum(p.numel() for p in trainer.target.model.parameters())
    assert plan.steps == trainer.steps and plan.data.examples == len(trainer.examples)
    assert plan.data.mean_length == sum(trainer.lengths) / len(trainer.lengths)
    trainer.train_step([0, 1, 2, 3])
    state = [value for s in trainer.optimizer.state_dict() for of in s["state"].values() for value in of.values()]
    held = sum(v.numel() * v.element_size() for v in state if isinstance(v, torch.Tensor) and v.ndim)
    assert optimizer_bytes(trainer.drafter, optimizer) == held
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
    """Floating-point operations as torch counts them; of attention's backward pass without what it computes again."""

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
    assert sum(plan.step_flops) == pytest.approx(counted.total, rel=0.06)  # no gradient of features


def test_disk_bounds_what_a_run_leaves(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", save_every=1, keep_checkpoints=2)
    plan = make_plan(config, 1, "cpu")
    Trainer(config).run()
    assert plan.drafter_parameters is not None and plan.disk_bytes is not None
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
    assert alone.target_parameters and alone.drafter_parameters
    assert sharded.standing_bytes == 4 * alone.target_parameters + 16 * alone.drafter_parameters // 4
    assert alone.step_flops == whole.step_flops


def test_a_large_target_is_planned_from_its_config_alone(conversations: Path, tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(QWEN3_4B))
    overrides = [f"target.model={tmp_path / 'qwen'}", f"data.train=[{conversations}]"]
    config = load_config(RECIPES / "qwen3-4b-5-layers-dpace.yaml", overrides)
    plan = make_plan(config, 8, "cuda")
    assert plan.target_parameters == pytest.approx(4.02e9, rel=0.01)
    assert plan.drafter_parameters == pytest.approx(538e6, rel=0.02)
    assert plan.standing_bytes == 2 * plan.target_parameters + 16 * plan.drafter_parameters
    assert "the target's tokenizer is not at hand" in plan.unknown[0]
    with pytest.raises(UserError, match="8 processes are planned and one is started"):
        measure_steps(config, plan)
    with pytest.raises(UserError, match=r"the weights of .*qwen are not on this machine"):
        measure_steps(config, replace(plan, processes=1))
    beyond = replace(plan, processes=1, device="cpu", standing_bytes=2**60)
    with pytest.raises(UserError, match="GiB are needed and"):
        measure_steps(RunConfig(), beyond)


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
    assert "cannot be read as a causal language model's" in plan.unknown[0]


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
    assert not weights_are_here("owner/model")


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
    drafter = meta_drafter(config, meta_target(config))
    assert sum(p.numel() for p in drafter.parameters()) == sum(p.numel() for p in Trainer(config).drafter.parameters())


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
    assert "GiB" not in capsys.readouterr().out


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


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    command = ["train", str(RECIPES / "qwen3-4b-5-layers-dpace.yaml"), "--plan", "--json"]
    command += [f"target.model={tmp_path / 'absent'}", f"data.train=[{tmp_path / 'absent.jsonl'}]"]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    plan = json.loads(result.output)
    assert all(plan[name] is None for name in ("steps", "standing_bytes", "step_flops", "measured"))
    assert len(plan["unknown"]) == 3 and "absent" in plan["unknown"][0]


@pytest.mark.parametrize("weights", [True, False])
def test_the_demo_is_planned_with_and_without_weights(weights: bool, tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns() if weights else shutil.ignore_patterns("*.safetensors")
    shutil.copytree(ASSETS / "demo" / "model", tmp_path / "target", ignore=left_out)
    command = ["train", str(RECIPES / "demo-dpace.yaml"), "--plan", f"target.model={tmp_path / 'target'}"]
    result = CliRunner().invoke(cli.app, [*command, "data.limit=200"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    section = load_config(RECIPES / "demo-dpace.yaml").training
    for words in (f"{section.max_steps:,} of {section.batch_size} conversations", "GiB a process", "disk", "TFLOP"):
        assert words in result.output
    assert ("s a step, measured here" in result.output) == weights
    assert ("are not on this machine" in result.output) != weights


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_to_run_it(recipe: Path) -> None:
    load_config(recipe)
    assert f"train recipes/{recipe.name}" in recipe.read_text()
