"""How the shipped target, its text and its drafters are made, at toy sizes."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demo_target import examine, make_data, ship, train_target
from demo_target.corpus import generated_conversations
from paradraft.drafters import DRAFTERS, load_drafter
from paradraft.models import Target
from paradraft.models.chat import ChatText, stop_tokens_of
from paradraft.models.names import ASSETS
from paradraft.text.provenance import read_provenance


def test_a_target_is_trained_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 2, "PACKED": 16, "TOKENIZER_TEXTS": 60}.items():
        monkeypatch.setattr(train_target, name, value)
    sizes = ["--out", str(tmp_path), "--steps", "12", "--layers", "1"]
    train_target.main([*sizes, "--stop-at", "11"])
    train_target.main([*sizes, "--resume", str(tmp_path / "state.pt")])
    losses = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["step"] for record in losses] == [0, 10, 11] and losses[-1]["loss"] < losses[0]["loss"]
    target = Target.load(str(tmp_path / "model"))
    assert len(target.layers) == 1 and target.chat.stop_tokens
    assert load_file(tmp_path / "model" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_the_loss_is_of_answers_alone() -> None:
    target = Target.load("demo")
    chat = ChatText.of(target.chat.tokenizer, stop_tokens_of(None, target.chat.tokenizer))
    batch = next(train_target.batches(chat, generated_conversations(1), 1))
    assert batch.input_ids.shape[0] == train_target.ROWS and batch.input_ids.shape[1] <= train_target.ROW_LENGTH
    assert float((batch.document_ids >= 0).float().mean()) > 0.9  # packed
    with torch.no_grad():
        loss = float(train_target.answer_loss(target.model, batch))
        logits = target.logits(batch.input_ids, batch.document_ids)[:, :-1].log_softmax(-1)
    each = -logits.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    assert loss == pytest.approx(float(each[batch.loss_mask[:, 1:]].mean()), rel=0.05) and loss < 0.2


def test_answers_are_the_targets_own(tmp_path: Path) -> None:
    make_data.main(["--target", str(ASSETS / "demo" / "model"), "--out", str(tmp_path), "--conversations", "6"])
    lines = gzip.decompress((tmp_path / "data" / "train.jsonl.gz").read_bytes()).decode().splitlines()
    shipped = gzip.decompress((ASSETS / "demo" / "data" / "train.jsonl.gz").read_bytes()).decode().splitlines()
    asked = [prompt for prompt, _ in islice(generated_conversations(make_data.TRAINING_SEED), 6)]
    for made, line in zip(map(json.loads, lines), map(json.loads, shipped), strict=False):
        assert made["messages"][0]["content"] in asked
        if made["temperature"] == 0:
            assert made == line  # sampled answers depend on how the engine draws
    assert read_provenance(tmp_path / "data" / "train.jsonl.gz") is not None
    for family in ("math", "code", "chat"):
        name = f"prompts/{family}.jsonl"
        assert (tmp_path / name).read_bytes() == (ASSETS / "demo" / name).read_bytes()


def test_examination_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    result = examine.examine(Target.load("demo"), "math", 0.0, 4, 2026)
    assert result["prompts"] == 4 and result["ended"] == 1.0 and result["right"] >= 0.5


def test_a_run_is_shipped_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "ASSETS", tmp_path)
    target = Target.load("demo")
    source = ASSETS / "demo" / "drafters" / "dflash-dpace"
    DRAFTERS["dflash"].from_pretrained(source, target, torch.float32).save_pretrained(tmp_path / "run" / "drafter")
    for _ in range(2):  # the second one replaces the first
        ship.main([str(tmp_path / "run"), "again", "--target", "demo"])
    shipped = tmp_path / "demo" / "drafters" / "again"
    weights = load_file(shipped / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(source / "model.safetensors").items())
    assert load_drafter(shipped, target).kind == "dflash"
