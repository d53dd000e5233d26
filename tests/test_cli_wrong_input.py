"""What is wrong in a configuration or an option is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paradraft import cli
from paradraft.errors import UserError
from paradraft.training.loop import Trainer
from tests.test_cli import run


@pytest.mark.parametrize(
    ("yaml", "overrides", "complaint"),
    [
        ("training: {learning_rat: 1}", [], "unknown key training.learning_rat; known here: epochs"),
        ("trainig: {}", [], "unknown key trainig; known here: target"),
        (
            "drafter: {kind: medusa}",
            [],
            "drafter: kind must be one of dflash, dflash2, dflash2_tied, dspark, eagle3, pard2, pard, vanilla",
        ),
        ("objective: {alpha: 0}", [], "objective.alpha must be more than 0 and at most 1, not 0"),
        ("objective: {weighting: decay, alpha_end: 0.2}", [], "alpha_end is set, but the weighting decay has no alpha"),
        ("training: {batch_size: 2, micro_batch_size: 4}", [], "micro_batch_size is larger"),
        ("objective: {token_loss: ce_kd, ce_weight: 0, kd_weight: 0}", [], "both 0: nothing would be learned"),
        ("objective: {alpha: x}", [], "yaml: objective.alpha must be a number, not 'x'$"),
        ("objective: {weightin: decay}", [], "unknown key objective.weightin; known here: token_loss, .*lk_decay$"),
        ("training: {batch_size: 2, micro_batch_size: 4}", [], "is larger than training.batch_size$"),
        ("drafter: 3", [], "drafter: kind must be one of .* .got 3.$"),
        (
            "drafter: {kind: pard2, feature_scale: -1}",
            [],
            "drafter.feature_scale: input should be greater than 0 .got -1.$",
        ),
        ("drafter: {kind: dflash, feature_layers: 7}", [], "drafter.feature_layers: must be a list, such as .a, b."),
        ("training: 3", [], "training: must be a section of keys and values .got 3.$"),
        ("data: {train: [{source: x, wieght: 2}]}", [], "unknown key data.train.0.wieght; known here: source, weight$"),
        ("target: [", [], "is not valid YAML: .* .line "),
        ("training: {learning_rate: .inf}", [], "training.learning_rate: input should be a finite number"),
        ("- 1", [], "must hold sections"),
        ("{}", ["training.max_steps"], "not of the form section.key=value"),
        ("{}", ["data.train=[nowhere.jsonl]"], "nowhere.jsonl cannot be read"),
        ("{}", ["evaluation.prompts=[demo:poetry]"], "demo:poetry does not ship with paradraft"),
    ],
)
def test_wrong_configurations(
    yaml: str, overrides: list[str], complaint: str, target_directory: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml)
    with pytest.raises(UserError, match=complaint.replace("[", r"\[")):
        extra = [f"output={tmp_path / 'run'}"]
        if not yaml.startswith(("target", "-")):
            extra.append(f"target.model={target_directory}")
        run("train", config, *overrides, *extra)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("resume", "advice"), [("auto", "the same command"), ("never", "the same command without --resume")]
)
def test_what_ctrl_c_says_brings_a_run_to_its_end(
    resume: str, advice: str, target_directory: Path, conversations: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The same command with `--resume never` would start over and remove what there is."""
    config = tmp_path / "run.yaml"
    config.write_text("drafter: {layers: 1, block_size: 4}\ntraining: {max_steps: 3, batch_size: 2, anchors: 4}\n")
    overrides = [f"target.model={target_directory}", f"data.train=[{conversations}]", f"output={tmp_path / 'run'}"]

    def stop(self: Trainer) -> None:
        self.saved_step = 3
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", stop)
    result = CliRunner().invoke(cli.app, list(map(str, ["train", config, "--resume", resume, *overrides])))
    assert result.exit_code == 130
    assert f"stopped; {advice} goes on from step 3" in " ".join(result.output.split())


def test_wrong_evaluations(target_directory: Path, drafter_directory: Path, prompts: Path, tmp_path: Path) -> None:
    empty, broken, long = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "long.jsonl"
    empty.write_text("\n")
    broken.write_text('{"question": "x"}\n')
    long.write_text(json.dumps({"prompt": "the cat sat " * 200}) + "\n")
    pair = ["eval", "--target", target_directory, "--drafter", drafter_directory]
    short = ["--max-new-tokens", 8]
    for arguments, complaint in (
        ([*pair, "--prompts", tmp_path / "none.jsonl"], "cannot be read"),
        ([*pair, "--prompts", empty], "is empty"),
        ([*pair, "--prompts", broken], "line 1: this is no record, it needs"),
        ([*pair, "--prompts", long, *short], "more than the context of 128"),
        ([*pair, "--prompts", long, *short, "--skip-long"], "no prompt of long fits"),
        ([*pair, "--prompts", prompts, "--draft-length", 9], "outside 1 to 3"),
        ([*pair, "--prompts", prompts, "--temperature", -1], "temperature must be 0 or more"),
        ([*pair, "--prompts", prompts, "--temperature", "nan"], "temperature must be 0 or more"),
        (["eval", "--target", target_directory, "--drafter", empty, "--prompts", prompts], r"no config\.json"),
        ([*pair, "--prompts", prompts, "--dtype", "int4"], "dtype 'int4' is not known"),
        (["eval", "--target", "demo", "--drafter", "demo:none", "--prompts", prompts], "demo:none does not ship"),
        (["eval", "--drafter", tmp_path / "no", "--prompts", prompts], "no does not exist"),
        (["eval", "--target", target_directory, "--prompts", prompts], "ships with paradraft; name one with --drafter"),
        (["eval", "--target", "./missing", "--prompts", prompts], "target ./missing: there is no such directory"),
        (["eval", "--target", tmp_path / "no", "--drafter", drafter_directory, "--prompts", prompts], "no such"),
        (["generate", "--target", target_directory, " "], "prompt is empty"),
        (["generate", "--target", target_directory, "x", "--drafter", ""], "the drafter's name is empty"),
        (["verify", "--target", target_directory, "--drafter", ""], "the drafter's name is empty"),
        ([*pair, "--prompts", prompts, "--tree", 2000], "a tree has 1 to 1024 nodes, not 2000"),
        ([*pair, "--prompts", prompts, "--draft-length", "²"], "number of tokens or auto, not '²'"),
        (["verify", *pair[1:], "--prompts", prompts, "--temperature", 0, "--max-new-tokens", 1], "to 3 or more"),
        (["data", "regenerate", "--prompts", prompts, "--out", tmp_path / "a.parquet"], "answers are written as JSONL"),
        (["generate", "--target", target_directory, "x", "--mode", "independent"], "give a drafter with --drafter"),
        (["generate", "--target", target_directory, "x", "--draft-length", 3], "give a drafter with --drafter"),
        (["serve", "--target", target_directory, "--acceptance", "block"], "give a drafter with --drafter"),
        (["bench", *pair[1:], "--prompts", prompts, "--synthetic-acceptance", 0.5], "makes prompts of its own"),
        (["bench", *pair[1:], "--prompts", prompts, "--context", 9], "--context is for --synthetic-acceptance"),
        (["train", tmp_path / "run.yaml", "--json"], "give --plan too"),
        (["data", "regenerate", "--prompts", prompts, "--out", tmp_path / "a", "--model", "x"], "with --endpoint"),
    ):
        with pytest.raises(UserError, match=complaint):
            run(*arguments, *(["--out", tmp_path / "out"] if arguments[0] == "eval" else []))
    assert not (tmp_path / "out").exists()
