"""What a run keeps and how it goes on: checkpoints, resuming without a trace, the best drafter, other runs refused."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from paradraft.drafters import Drafter, load_drafter
from paradraft.errors import UserError
from paradraft.evaluation.prompts import PromptSet
from paradraft.evaluation.quick import Watched
from paradraft.training.checkpoint import complete_checkpoints, find_checkpoint
from paradraft.training.config import RunConfig
from paradraft.training.loop import Trainer
from tests.conftest import KINDS, drafter_values
from tests.training.test_training import config_for, records, weights
from tests.training.test_watch import evaluated


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("dflash", "adamw"), *((kind, "muon") for kind in KINDS if kind not in ("pard", "vanilla"))]
)
def test_resuming_equals_going_on(
    target_directory: Path, conversations: Path, tmp_path: Path, kind: str, optimizer: str
) -> None:
    drafter = {"drafter": drafter_values(kind, layers=1, block_size=4, draft_length=3, cod_ratio=0.5)}

    def config(name: str) -> RunConfig:
        made = config_for(target_directory, conversations, tmp_path / name, optimizer=optimizer)
        return RunConfig.model_validate(made.model_dump() | drafter)

    whole = Trainer(config("whole"))
    whole.run()
    halved = config("halved")

    interrupted = Trainer(halved)
    interrupted.report = lambda record: os.kill(os.getpid(), signal.SIGINT) if record["step"] == 5 else None
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    torch.manual_seed(99)  # what others draw in between changes nothing
    assert complete_checkpoints(tmp_path / "halved" / "checkpoints")[-1].name == "step-5"
    assert (tmp_path / "halved" / "drafter" / "model.safetensors").is_file()
    resumed = Trainer(halved)
    assert resumed.progress.step == 5
    resumed.run()
    for name, tensor in weights(whole.drafter).items():
        assert torch.equal(tensor, resumed.drafter.state_dict()[name])
    assert records(tmp_path / "halved", "loss") == records(tmp_path / "whole", "loss")


def test_a_finished_run_keeps_its_configuration(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", max_steps=2)
    Trainer(config).run()
    before = (tmp_path / "run" / "config.yaml").read_text()
    other = config_for(target_directory, conversations, tmp_path / "run", max_steps=2, learning_rate=0.5)
    Trainer(other).run()  # nothing to do: what is there was trained otherwise
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_annealed_alpha_is_in_the_record_and_resumes_exactly(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    def config(name: str, **objective: Any) -> RunConfig:
        made = config_for(target_directory, conversations, tmp_path / name, max_steps=5, save_every=2)
        return RunConfig.model_validate(made.model_dump() | {"objective": objective})

    annealed = config("run", alpha=0.9, alpha_end=0.1)
    whole = Trainer(annealed)
    whole.run()
    assert records(tmp_path / "run", "alpha") == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    losses = records(tmp_path / "run", "loss")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-5")
    resumed = Trainer(annealed)
    assert resumed.progress.step == 4
    resumed.run()
    assert records(tmp_path / "run", "loss") == losses
    assert all(torch.equal(tensor, weights(resumed.drafter)[name]) for name, tensor in weights(whole.drafter).items())
    Trainer(config("fixed", alpha=0.9)).run()
    fixed = records(tmp_path / "fixed", "loss")
    assert fixed[0] == losses[0] and fixed[1] != losses[1]
    Trainer(config("decay", weighting="decay")).run()
    assert records(tmp_path / "decay", "alpha") == [] and len(records(tmp_path / "decay", "loss")) == 5


def test_the_best_drafter_by_emitted_length_is_kept(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", max_steps=6)
    section = {"prompts": (str(prompts),), "every": 2, "max_new_tokens": 12, "batch_size": 2}
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=section)})
    scripted = {0: 1.0, 2: 2.5, 4: 1.5, 6: 2.0}
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Scripted(Trainer):
        def decode(self, drafter: Drafter, prompt_set: PromptSet) -> Watched:
            found = super().decode(drafter, prompt_set)
            assert found.emitted_length >= 1 and len(found.acceptance.conditional) == 3
            kept[self.progress.step] = weights(drafter)
            return Watched(scripted[self.progress.step], found.acceptance)

    trainer = Scripted(config)
    progress = trainer.run()
    assert (progress.best_step, progress.best_emitted_length) == (2, 2.5)
    best = load_drafter(tmp_path / "run" / "drafter", trainer.target).state_dict()
    assert all(torch.equal(best[name], tensor) for name, tensor in kept[2].items())
    assert records(tmp_path / "run", "emitted_length") == list(scripted.values())


def test_old_checkpoints_are_pruned_and_torn_ones_skipped(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run", save_every=2, keep_checkpoints=2)
    Trainer(config).run()
    found = complete_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in found] == ["step-6", "step-8"]
    (found[1] / "COMPLETE").unlink()
    assert find_checkpoint(tmp_path / "run", "auto") == found[0]
    assert find_checkpoint(tmp_path / "run", "never") is None
    with pytest.raises(UserError, match="missing or incomplete"):
        find_checkpoint(tmp_path / "run", str(found[1]))


def test_starting_over_forgets_the_old_run(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    Trainer(config_for(target_directory, conversations, output, save_every=2)).run()
    Trainer(config_for(target_directory, conversations, output, save_every=2, max_steps=4), resume="never").run()
    assert [path.name for path in complete_checkpoints(output / "checkpoints")] == ["step-2", "step-4"]
    assert len(records(output, "loss")) == 4


def test_a_finished_drafter_is_not_thrown_away(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    Trainer(config).run()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"holds a finished drafter but no checkpoint .* --resume never"):
        Trainer(config)
    assert (tmp_path / "run" / "drafter" / "model.safetensors").is_file()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    for unfinished in (lines[:-1], [*lines[:-1], lines[-1][:20]], []):
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(unfinished))
        assert Trainer(config).progress.step == 0
    Trainer(config, resume="never").run()


def test_resuming_another_run_is_refused(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    Trainer(config).run()
    other = config.model_copy(update={"drafter": config.drafter.model_copy(update={"block_size": 8})})
    with pytest.raises(UserError, match=r"another drafter\.block_size \(4, now 8\).*--resume never"):
        Trainer(other)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made a directory"):
        Trainer(config_for(target_directory, conversations, tmp_path / "file")).run()


def test_resuming_on_other_text_is_refused(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    config = config_for(target_directory, conversations, tmp_path / "run")
    Trainer(config).run()
    lines = conversations.read_text()
    conversations.write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"other text .*\(24 examples, now 25\).*--resume never"):
        Trainer(config)
    conversations.write_text(lines.replace("say 3", "say 4"))
    with pytest.raises(UserError, match=r"other text .*\(as many tokens, but others\).*--resume never"):
        Trainer(config)
    conversations.write_text(lines)
    assert Trainer(config).progress.step == 8


def test_a_run_that_said_head_goes_on_with_geometric_weights() -> None:
    older = RunConfig.model_validate({"objective": {"weighting": "head", "base": 0.7}})
    assert older == RunConfig.model_validate({"objective": {"weighting": "geometric", "base": 0.7}})


def test_other_prompts_choose_the_best_drafter_anew(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path
) -> None:
    """Emitted lengths on other prompts cannot be compared with the best one so far."""
    config = evaluated(config_for(target_directory, conversations, tmp_path / "run", max_steps=2), prompts)
    trainer = Trainer(config)
    trainer.progress.best_emitted_length = 99.0
    trainer.run()
    assert Trainer(config).progress.best_emitted_length == 99.0
    longer = config.training.model_copy(update={"max_steps": 4})
    other = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"limit": 1}), "training": longer}
    )
    assert Trainer(other).progress.best_emitted_length == 0.0
    Trainer(other).prepare_output()  # and is killed before its first checkpoint
    assert Trainer(other).progress.best_emitted_length == 0.0
    prompts.write_text(prompts.read_text().replace("cat", "dog"))  # another content of the same name
    assert Trainer(config.model_copy(update={"training": longer})).progress.best_emitted_length == 0.0


@pytest.mark.parametrize("evaluation", [{"limit": 1}, {"prompts": ()}])
def test_a_finished_run_keeps_its_best_drafter(
    target_directory: Path, conversations: Path, prompts: Path, tmp_path: Path, evaluation: dict[str, Any]
) -> None:
    config = evaluated(config_for(target_directory, conversations, tmp_path / "run", max_steps=2), prompts)
    trainer = Trainer(config)
    trainer.progress.best_emitted_length = 99.0  # so that no step is better than what stands in drafter/
    trainer.drafter.save_pretrained(tmp_path / "run" / "chosen")
    trainer.prepare_output()
    shutil.copytree(tmp_path / "run" / "chosen", tmp_path / "run" / "drafter")
    trainer.train()
    best = (tmp_path / "run" / "drafter" / "model.safetensors").read_bytes()
    assert best == (tmp_path / "run" / "chosen" / "model.safetensors").read_bytes()
    Trainer(config.model_copy(update={"evaluation": config.evaluation.model_copy(update=evaluation)})).run()
    assert (tmp_path / "run" / "drafter" / "model.safetensors").read_bytes() == best


def test_another_runs_checkpoint_is_not_mixed_with_a_run(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    first, second = (config_for(target_directory, conversations, tmp_path / name, max_steps=2) for name in "ab")
    Trainer(first).run()
    (start,) = complete_checkpoints(tmp_path / "a" / "checkpoints")
    assert Trainer(second, str(start)).progress.step == 2  # an empty output is welcome
    Trainer(second).run()
    with pytest.raises(UserError, match="b holds checkpoints of another run"):
        Trainer(second, str(start))
    assert Trainer(first, str(start)).progress.step == 2
