"""DFlash: its attention mask, training tied to decoding, its directory, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from paradraft.drafters import DFlash, DFlashSection, load_drafter
from paradraft.drafters.attention import dense_mask, dflash_predicate
from paradraft.drafters.dflash_config import default_feature_layers
from paradraft.drafters.directory import unused_token
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import make_drafter, make_drafter_of, make_model


def test_mask_equals_the_published_example() -> None:
    """8 context tokens, blocks of 4 anchored at 2 and 5: context before the anchor, and one's own block."""
    predicate = dflash_predicate(torch.tensor([[2, 5]]), torch.zeros(1, 8, dtype=torch.long), 4)
    mask = dense_mask(predicate, 1, 8, 16, torch.device("cpu"))[0, 0].int()
    first = [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    second = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert mask.tolist() == [first] * 4 + [second] * 4


def test_mask_of_causal_blocks() -> None:
    predicate = dflash_predicate(torch.tensor([[2, 5]]), torch.zeros(1, 6, dtype=torch.long), 3, causal=True)
    mask = dense_mask(predicate, 1, 6, 12, torch.device("cpu"))[0, 0].int()
    lower = [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask[:3].tolist() == [[1, 1, 0, 0, 0, 0, *row, 0, 0, 0] for row in lower]
    assert mask[3:].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0, 0, *row] for row in lower]


def test_causal_blocks_are_another_drafter(target: Target, tmp_path: Path) -> None:
    """JetSpec's: a slot does not see what stands behind it; its directory says so."""
    drafter = make_drafter_of("dflash", target, causal=True)
    assert isinstance(drafter, DFlash)
    both = DFlash(replace(drafter.config, causal=False), target).eval()
    both.load_state_dict(drafter.state_dict())
    ids = torch.randint(1, 40, (1, 9))
    found = []
    for one in (drafter, both):
        state = one.start(1, 40)
        features = target.features(ids[:, :8], torch.zeros(1, 8, dtype=torch.long), one.feature_layers)
        one.observe(state, [0], features, ids[:, :8], torch.tensor([8]))
        found.append([one.draft_hidden(state, [0], ids[:, 8], steps)[:, :2] for steps in (2, 5)])
    for short, long in found:
        torch.testing.assert_close(short, long)
    assert not torch.allclose(found[0][0], found[1][0], atol=1e-2)
    drafter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["is_causal"] is config["dflash_config"]["causal"] is config["dflash_config"]["causal_head"] is True
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DFlash) and again.config == drafter.config


def test_mask_stays_within_documents() -> None:
    predicate = dflash_predicate(torch.tensor([[4]]), torch.tensor([[0, 0, 1, 1, 1, 1]]), 2)
    mask = dense_mask(predicate, 1, 2, 8, torch.device("cpu"))[0, 0].int()
    assert mask.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]] * 2


def test_parity_would_notice_a_feature_too_many(target: Target, drafter: DFlash) -> None:
    """The anchor itself has no features yet: letting the context reach it changes the drafts."""
    ids = torch.randint(1, 40, (1, 12))
    results = []
    for context in (8, 9):
        state, cache = drafter.start(1, 40), target.new_slots(1, 40)
        output = target.forward(ids[:, :context], cache, drafter.feature_layers)
        drafter.observe(state, [0], output.features, ids[:, :context], torch.tensor([context]))
        results.append(drafter.head(drafter.draft_hidden(state, [0], ids[:, 8], 5)))
    assert not torch.allclose(*results, rtol=1e-2, atol=1e-2)


def test_bfloat16_drafters_keep_their_positions_exact(tmp_path: Path) -> None:
    """Loaded in bfloat16, positions of 2,000 tokens and more are still rotated by float32 angles."""
    model = make_model("qwen3", max_position_embeddings=4096)
    exact = make_drafter(Target(model))
    exact.save_pretrained(tmp_path)
    rounded = load_drafter(tmp_path, Target(model.to(torch.bfloat16)))
    assert isinstance(rounded, DFlash) and rounded.norm.weight.dtype == torch.bfloat16
    positions = torch.tensor([[2000, 4000]])
    for wanted, found in zip(exact._rotation(positions), rounded._rotation(positions), strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=0.01, rtol=0)


def test_training_starts_from_float32_weights_whatever_the_target(tmp_path: Path) -> None:
    exact = make_drafter(Target(make_model("qwen3")))
    exact.save_pretrained(tmp_path)
    half = Target(make_model("qwen3").to(torch.bfloat16))
    again = DFlash.from_pretrained(tmp_path, half, torch.float32)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in exact.state_dict().items())


@pytest.mark.parametrize("asked", [{"block_size": 16}, {"layers": 5}, {"feature_layers": [0, 1]}, {"mask_token": 3}])
def test_a_start_that_is_not_what_the_run_says_is_refused(
    target: Target, drafter: DFlash, tmp_path: Path, asked: dict[str, Any]
) -> None:
    drafter.save_pretrained(tmp_path)
    made = {"init_from": str(tmp_path), "layers": 2, "block_size": 6}
    assert DFlash.create(DFlashSection.model_validate(made), target).max_draft == 5
    with pytest.raises(UserError, match=rf"drafter\.{next(iter(asked))} is .* has .*; set it to that"):
        DFlash.create(DFlashSection.model_validate(made | asked), target)


def test_mask_tokens_are_reserved_entries_not_words() -> None:
    class Tokenizer:
        chat_template = None

        def __init__(self, *tokens: str) -> None:
            self.tokens = tokens

        def get_vocab(self) -> dict[str, int]:
            return {token: i for i, token in enumerate(self.tokens)}

        def __len__(self) -> int:
            return len(self.tokens)

    def mask_of(tokenizer: Tokenizer) -> int:
        return unused_token(Target(make_model("qwen3"), tokenizer))  # type: ignore[arg-type]

    assert mask_of(Tokenizer("unused", "\u0120reserved", "a")) == 3
    assert mask_of(Tokenizer("a", "<|reserved_special_token_7|>", "b")) == 1
    gap = Tokenizer("a", "b")
    gap.get_vocab = lambda: {"a": 0, "b": 2}  # type: ignore[method-assign]
    assert mask_of(gap) == 3
    with pytest.raises(UserError, match="no unused token"):
        mask_of(Tokenizer(*(str(i) for i in range(40))))


def test_default_feature_layers() -> None:
    assert default_feature_layers(5, 36) == (1, 9, 17, 25, 33)
    assert default_feature_layers(1, 36) == (18,)
    assert default_feature_layers(2, 10) == (1, 7)
    assert default_feature_layers(3, 4) == (1,)  # a tiny target: repeats are dropped


def test_directory_round_trip(target: Target, drafter: DFlash, tmp_path: Path) -> None:
    drafter.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    assert isinstance(again, DFlash) and again.config == drafter.config
    for name, tensor in drafter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_directory_is_what_engines_read(target: Target, drafter: DFlash, tmp_path: Path) -> None:
    drafter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["DFlashDraftModel"] and config["model_type"] == "qwen3"
    assert config["block_size"] == 6 and config["num_target_layers"] == 4
    assert config["dflash_config"] == {"mask_token_id": 39, "target_layer_ids": list(drafter.feature_layers)}
    tensors = load_file(tmp_path / "model.safetensors")
    layer = {f"self_attn.{n}_proj.weight" for n in "qkvo"} | {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
    layer |= {f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
    layer |= {"input_layernorm.weight", "post_attention_layernorm.weight"}
    wanted = {f"layers.{i}.{name}" for i in range(2) for name in layer}
    assert set(tensors) == wanted | {"fc.weight", "hidden_norm.weight", "norm.weight"}
    assert tensors["fc.weight"].shape == (32, 32 * len(drafter.feature_layers))


def test_drafters_of_other_targets_are_refused(drafter: DFlash, tmp_path: Path) -> None:
    drafter.save_pretrained(tmp_path)
    for sizes, what in (
        ({"hidden_size": 16}, "hidden size 32"),
        ({"vocab_size": 50}, "vocabulary 40"),
        ({"num_hidden_layers": 3}, "layer count 4"),
    ):
        with pytest.raises(UserError, match=f"{what}.*train a drafter for this one"):
            load_drafter(tmp_path, Target(make_model("qwen3", **sizes)))


def test_broken_directories_are_named(target: Target, drafter: DFlash, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_drafter(tmp_path, target)
    drafter.save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    original, bytes_ = config.read_text(), weights.read_bytes()
    weights.write_bytes(bytes_[: len(bytes_) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        load_drafter(tmp_path, target)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        load_drafter(tmp_path, target)
    tensors = dict(drafter.state_dict())
    save_file({n: t for n, t in tensors.items() if n != "fc.weight"}, weights)
    with pytest.raises(UserError, match=r"lacks fc\.weight"):
        load_drafter(tmp_path, target)
    save_file(tensors | {"fc.weight": torch.zeros(3, 3)}, weights)
    with pytest.raises(UserError, match=r"fc\.weight has shape \[3, 3\]"):
        load_drafter(tmp_path, target)
    config.write_text(original.replace("DFlashDraftModel", "Whatever"))
    with pytest.raises(UserError, match=r"Whatever.*does not describe"):
        load_drafter(tmp_path, target)
    config.write_text(original.replace('"num_hidden_layers": 2', '"num_hidden_layers": "2"'))
    with pytest.raises(UserError, match="layers must be a positive number"):
        load_drafter(tmp_path, target)
    for old, new, complaint in (
        ('"block_size": 6', '"block_size": 1', "block_size must be at least 2"),
        ('"block_size": 6', '"block_size": 6.5', "block_size must be a positive number, not 6.5"),
        ('"mask_token_id": 39', '"mask_token_id": null', "mask token must be a token's number, not None"),
    ):
        assert old in original
        config.write_text(original.replace(old, new))
        with pytest.raises(UserError, match=complaint):
            load_drafter(tmp_path, target)
    config.write_text(json.dumps(json.loads(original) | {"layer_types": None}))
    save_file(tensors, weights)
    assert load_drafter(tmp_path, target).max_draft == 5
    config.write_text(json.dumps(json.loads(original) | {"layer_types": ["sliding_attention", "full_attention"]}))
    with pytest.raises(UserError, match="sliding-window DFlash blocks are not supported"):
        load_drafter(tmp_path, target)
    config.write_text(json.dumps(json.loads(original) | {"sample_from_anchor": True}))
    with pytest.raises(UserError, match=r"slot 0 drafts \(sample_from_anchor\)"):
        load_drafter(tmp_path, target)
    config.write_text(json.dumps(json.loads(original) | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}))
    with pytest.raises(UserError, match="rotary positions are of type 'yarn'"):
        load_drafter(tmp_path, target)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_drafter(config, target)
    config.write_text(original[:40])
    with pytest.raises(UserError, match=r"config\.json cannot be read \(not JSON"):
        load_drafter(tmp_path, target)
    config.write_text(json.dumps({"architectures": ["DFlashDraftModel"]}))
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        load_drafter(tmp_path, target)
