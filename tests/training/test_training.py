"""The loop: it learns, its steps may be split, and what cannot run is refused politely."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from paradraft.drafters import Batch, anchor_grid, load_drafter
from paradraft.errors import UserError
from paradraft.models import Target
from paradraft.objectives import Objective
from paradraft.objectives.chunked_head import chunked_head
from paradraft.training import loop, setup, teacher
from paradraft.training.config import RunConfig
from paradraft.training.loop import Trainer
from paradraft.training.optim import learning_rate_at
from paradraft.training.teacher import read_teacher
from tests.conftest import KINDS, drafter_values


def config_for(target: Path, data: Path, output: Path, **training: Any) -> RunConfig:
    settings = {
        "epochs": 10,
        "max_steps": 8,
        "batch_size": 4,
        "anchors": 6,
        "learning_rate": 3e-3,
        "save_every": 4,
        "log_every": 1,
    }
    return RunConfig.model_validate(
        {
            "target": {"model": str(target)},
            "drafter": {"layers": 2, "block_size": 4},
            "data": {"train": [str(data)], "max_length": 100},
            "training": settings | training,
            "output": str(output),
        }
    )


def weights(drafter: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in drafter.state_dict().items()}


def records(run: Path, key: str) -> list[Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_training_lowers_the_loss_and_leaves_a_drafter(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", max_steps=40)
    Trainer(config).run()
    losses = records(tmp_path / "run", "cross_entropy")
    assert len(losses) == 40 and sum(losses[-5:]) < 0.75 * sum(losses[:5])
    walked = records(tmp_path / "run", "walk")
    assert sum(walked[-5:]) > 1 + sum(walked[:5])
    target = Target.load(str(target_directory))
    assert load_drafter(tmp_path / "run" / "drafter", target).max_draft == 3
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_objective_trains_the_same(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        config = config_for(target_directory, conversations, tmp_path / str(compiled), compile=compiled)
        trainer = Trainer(config)
        assert trainer.objective.compiled is compiled
        trainer.run()
        lines = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 8


def test_a_compiler_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> torch.Tensor:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(setup, "compiled_token_terms", lambda: lambda *_: broken())
    with pytest.raises(UserError, match=r"\(no C\+\+ compiler\); set training.compile=false"):
        setup.check_compiler(Objective(), torch.device("cpu"))


@pytest.mark.parametrize("weighting", ["dpace", "decay", "uniform"])
def test_a_step_does_not_depend_on_micro_batches(
    target_directory: Path, conversations: Path, tmp_path: Path, weighting: str
) -> None:
    results = []
    for micro in (4, 2, 1):
        config = config_for(target_directory, conversations, tmp_path / "x", micro_batch_size=micro)
        config = config.model_copy(update={"objective": config.objective.model_copy(update={"weighting": weighting})})
        trainer = Trainer(config)
        record = trainer.train_step([0, 5, 9, 23])
        assert 0 <= record["walk"] < 3
        results.append((record["loss"], record["gradient_norm"], weights(trainer.drafter), record["walk"]))
    for loss, norm, after, walked in results[1:]:
        assert walked == results[0][3]
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert norm == pytest.approx(results[0][1], rel=1e-4)
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, results[0][2][name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"dflash"}))
def test_other_drafters_learn_and_their_steps_do_not_depend_on_micro_batches(
    target_directory: Path, conversations: Path, tmp_path: Path, kind: str
) -> None:
    def config(**training: Any) -> RunConfig:
        made = config_for(target_directory, conversations, tmp_path / kind, **training)
        drafter = drafter_values(kind, layers=1, draft_length=4, block_size=4, feature_dropout=0.5)
        objective = {"weighting": "cat", "token_loss": "ce_kd", "anchor_weighting": "visits"}
        return RunConfig.model_validate(made.model_dump() | {"drafter": drafter, "objective": objective})

    results = []
    for micro in (4, 1):
        trainer = Trainer(config(micro_batch_size=micro))
        record = trainer.train_step([0, 5, 9, 23])
        results.append((record["loss"], record["gradient_norm"]))
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    rate = 2e-3 if kind == "dflash2_tied" else 1e-2  # its projections serve all tokens at once
    Trainer(config(max_steps=30, learning_rate=rate), "never").run()
    losses = records(tmp_path / kind, "cross_entropy")
    assert sum(losses[-5:]) < 0.87 * sum(losses[:5])
    assert load_drafter(tmp_path / kind / "drafter", Target.load(str(target_directory))).kind == kind


def test_a_teacher_too_large_to_keep_is_made_chunk_by_chunk(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run")
    objective = {"weighting": "cat", "token_loss": "ce_kd"}
    config = RunConfig.model_validate(made.model_dump() | {"objective": objective})
    results = []
    for entries in (2**26, 1):
        monkeypatch.setattr("paradraft.training.teacher.ENTRIES_PER_CHUNK", entries)
        monkeypatch.setattr("paradraft.objectives.chunked_head.POSITIONS_PER_CHUNK", 9)
        record = Trainer(config, "never").train_step([0, 5, 9, 23])
        results.append((record["loss"], record["gradient_norm"]))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_the_targets_opinion_is_that_of_its_own_logits(target_directory: Path) -> None:
    target = Target.load(str(target_directory))
    torch.manual_seed(0)
    ids = torch.randint(1, 60, (2, 14))
    documents = torch.where(torch.arange(14) < torch.tensor([[14], [9]]), 0, -1)
    batch = Batch(ids, (torch.arange(14) > 2) & (documents == 0), documents)
    grid = anchor_grid(batch, 4, 14, [0, 1])
    features, blocks = read_teacher(target, grid, (0, 2), Objective("ce_kd", "cat"))
    torch.testing.assert_close(features, target.features(ids, documents, (0, 2)))
    assert blocks.gold is not None and blocks.teacher is not None and blocks.teacher_rows is not None
    logits = target.logits(ids, documents)
    for n in range(len(grid.rows)):
        for k in range(4):
            if grid.valid[n, k]:
                there = logits[grid.rows[n], grid.anchors[n] + k]
                torch.testing.assert_close(blocks.teacher[blocks.teacher_rows[n, k]], there, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(
                    blocks.gold[n, k], there.softmax(-1)[grid.labels[n, k]], rtol=1e-4, atol=1e-6
                )
    assert len(blocks.teacher) < ids.numel()  # asked-for positions only, each once
    plain, bare = read_teacher(target, grid, (), Objective("ce", "dpace"))
    assert plain.shape[-1] == 0 and bare.gold is None and bare.teacher is None


@pytest.mark.parametrize(("kind", "kept"), [("dflash", False), ("eagle3", True)])
def test_a_start_keeps_its_vocabulary_only_where_weights_belong_to_it(
    kind: str, kept: bool, target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first.jsonl"
    turns = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "one two three four five six"}]
    first.write_text((json.dumps({"messages": turns}) + "\n") * 4, encoding="utf-8")

    def vocabulary(text: Path, output: str, **drafter: Any) -> list[int]:
        values = config_for(target_directory, text, tmp_path / output, max_steps=1, save_every=1).model_dump()
        made = drafter_values(kind) | {"vocabulary": 12} | drafter
        trainer = Trainer(RunConfig.model_validate(values | {"drafter": made}))
        trainer.run()
        assert trainer.drafter.vocabulary is not None
        return list(map(int, trainer.drafter.vocabulary.ids))

    of_first, of_all = vocabulary(first, "first"), vocabulary(conversations, "all")
    assert of_first != of_all
    started = vocabulary(conversations, "on", init_from=str(tmp_path / "first" / "drafter"))
    assert started == (of_first if kept else of_all)


def test_a_loss_that_is_not_finite_stops_the_run(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    trainer = Trainer(config_for(target_directory, conversations, tmp_path / "run"))
    with torch.no_grad():
        next(trainer.drafter.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no longer finite at step 1"):
        trainer.train_step([0, 1, 2, 3])


def test_wrong_layers_and_data_are_refused(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    wrong = config.model_copy(update={"drafter": config.drafter.model_copy(update={"feature_layers": (1, 7)})})
    with pytest.raises(UserError, match="feature layer 7 does not exist"):
        Trainer(wrong)
    silent = tmp_path / "silent.jsonl"
    silent.write_text('{"prompt": "x", "response": ""}\n')
    with pytest.raises(UserError, match="loss mask is zero everywhere"):
        Trainer(config_for(target_directory, silent, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_a_configuration_says_reaches_objective_and_optimiser(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    made = config_for(target_directory, conversations, tmp_path / "run", weight_decay=0.3, optimizer="adamw")
    for objective, wanted in (
        ({"weighting": "decay", "gamma": 3.0}, {"gamma": 3.0}),
        ({"weighting": "geometric", "base": 0.7}, {"base": 0.7}),
        (
            {"weighting": "uniform", "token_loss": "ce_l1", "ce_weight": 0.2, "l1_weight": 0.6},
            {"ce_weight": 0.2, "l1_weight": 0.6},
        ),
        (
            {"weighting": "uniform", "token_loss": "lk_lambda", "lk_scale": 0.5, "lk_decay": 2.0},
            {"lk_scale": 0.5, "lk_decay": 2.0},
        ),
    ):
        config = RunConfig.model_validate(made.model_dump() | {"objective": objective})
        assert config.make_objective().parameters == wanted
    optimizers = Trainer(made).optimizer.optimizers
    decays = {group["weight_decay"] for optimizer in optimizers for group in optimizer.param_groups}
    assert decays == {0.0, 0.3}


def test_schedule() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.04) for step in range(100)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[52] == pytest.approx(0.5) and rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_bfloat16_is_refused_on_a_cpu_without_its_instructions(
    target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "bfloat16_is_fast", lambda device: False)
    config = config_for(target_directory, conversations, tmp_path / "run", precision="bfloat16")
    with pytest.raises(UserError, match=r"no bfloat16 instructions .*set training\.precision=float32"):
        Trainer(config)
    values = config_for(target_directory, conversations, tmp_path / "run").model_dump()
    with pytest.raises(UserError, match=r"set target\.dtype=float32"):
        Trainer(RunConfig.model_validate(values | {"target": {"model": str(target_directory), "dtype": "bfloat16"}}))


@pytest.mark.parametrize("entries", [1, 2**26])  # the target's logits chunk by chunk, and all at once
def test_the_target_computes_in_its_own_format(
    entries: int, target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training in bfloat16 is for the drafter: what it learns of the target is what it will read when it drafts."""
    monkeypatch.setattr(setup, "bfloat16_is_fast", lambda device: True)
    monkeypatch.setattr(teacher, "ENTRIES_PER_CHUNK", entries)
    seen: list[tuple[Any, ...]] = []

    def spy(hidden: Any, blocks: Any, head: Any, *rest: Any) -> Any:
        logits = blocks.teacher if blocks.teacher_head is None else blocks.teacher_head(blocks.teacher)
        seen.append((head(hidden).dtype, logits))
        return chunked_head(hidden, blocks, head, *rest)

    monkeypatch.setattr(loop, "chunked_head", spy)
    for name, precision in (("a", "float32"), ("b", "bfloat16")):
        made = config_for(target_directory, conversations, tmp_path / name, precision=precision, max_steps=1)
        Trainer(RunConfig.model_validate(made.model_dump() | {"objective": {"token_loss": "kl"}})).run()
    (plain, expected), (reduced, found) = seen
    assert (plain, reduced) == (torch.float32, torch.bfloat16)
    assert torch.equal(found, expected)


def test_the_precision_is_among_the_runs_notes(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", optimizer="muon", max_steps=1)
    Trainer(config).run()
    notes = json.loads((tmp_path / "run" / "data.json").read_text())["notes"]
    assert "the drafter computes in float32, the target in float32 on cpu" in notes[-1]
    assert "Muon orthogonalises in float32" in notes[-1]
