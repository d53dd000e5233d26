"""`paradraft data ...` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paradraft.errors import UserError

from ..test_cli import run


def test_from_prompts_to_a_drafter(target_directory: Path, prompts: Path, tmp_path: Path) -> None:
    """The target answers, its answers are looked at, their features kept, a drafter trained on both."""
    answers, store = tmp_path / "answers.jsonl", tmp_path / "features"
    target = ["--target", target_directory]
    run("data", "regenerate", *target, "--prompts", prompts, "--out", answers, "--max-new-tokens", 8, "--threads", 1)
    records = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert [len(record["messages"]) for record in records] in ([2, 2, 2], [4, 2, 2])
    assert "learned" in run("data", "inspect", answers, *target, "--number", 2, "--html", tmp_path / "x.html")
    kept = ["--keep-cut", "--looping", "keep"]  # a random target does not know when to stop
    assert "online training" in run("data", "features", answers, *target, *kept, "--out", store, "--estimate").lower()
    assert not store.exists()
    stored = ["--layers", "1, 2", "--storage", "int8", "--max-length", 64]
    run("data", "features", answers, *target, *kept, "--out", store, *stored)
    config = tmp_path / "run.yaml"
    config.write_text(
        "drafter: {layers: 1, block_size: 4, feature_layers: [2]}\n"
        "data: {max_length: 64, skip_cut: false, looping: keep}\n"
    )
    overrides = [f"target.model={target_directory}", f"data.train=[{answers}]", f"data.features={store}"]
    overrides += ["training.max_steps=2", "training.batch_size=2", f"output={tmp_path / 'run'}"]
    output = run("train", config, *overrides)
    assert "drafter in" in output and output.count("note:") == 1
    described = json.loads((tmp_path / "run" / "data.json").read_text())
    assert described["thinking"] is None and len(described["template_hash"]) == 12
    assert [note.split(",")[0] for note in described["notes"]] == ["the drafter computes in float32"]


def test_training_warns_of_answers_that_are_not_the_targets(
    target_directory: Path, conversations: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("drafter: {layers: 1, block_size: 4}\ntraining: {max_steps: 1, batch_size: 2, anchors: 4}\n")
    overrides = [f"target.model={target_directory}", f"data.train=[{conversations}]", f"output={tmp_path / 'run'}"]
    output = run("train", config, *overrides, "data.packing=true", "data.max_length=100")
    assert "nothing says that its answers are the target's own" in output and "packed into" in output


def test_mistakes_are_one_sentence(target_directory: Path, conversations: Path, tmp_path: Path) -> None:
    target = ["--target", target_directory]
    for arguments, complaint in (
        (["inspect", tmp_path / "none.jsonl", *target], "cannot be read"),
        (["inspect", conversations, *target, "--no-thinking"], "no thinking switch"),
        (["features", conversations, *target, "--out", tmp_path / "f", "--layers", "1,x"], "--layers must be"),
        (["features", conversations, *target, "--out", tmp_path / "f", "--layers", "9"], "layer 9 does not exist"),
        (["features", conversations, *target, "--out", tmp_path / "f", "--storage", "int4"], "--storage must be"),
        (["regenerate", *target, "--prompts", conversations, "--out", conversations], "is no file of this command"),
    ):
        with pytest.raises(UserError, match=complaint):
            run("data", *arguments)
    assert not (tmp_path / "f").exists()
