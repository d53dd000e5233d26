"""The target against Transformers' own outputs, over ragged rows, rollbacks and architectures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import FAMILIES, make_model


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_sequences_equal_transformers(family: str) -> None:
    model = make_model(family)
    target = Target(model)
    ids = torch.randint(1, 40, (2, 13))
    theirs = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    documents = torch.zeros_like(ids)
    torch.testing.assert_close(target.logits(ids, documents), theirs.logits, rtol=1e-4, atol=1e-4)
    features = target.features(ids, documents, (0, 2))
    wanted = torch.cat((theirs.hidden_states[1], theirs.hidden_states[3]), dim=-1)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows_with_rollback_equal_whole_sequences(family: str) -> None:
    target = Target(make_model(family))
    texts = [torch.randint(1, 40, (n,)).tolist() for n in (12, 9, 15)]
    cache = target.new_slots(3, 32)
    longest = 6
    starts = torch.tensor([6, 3, 5])
    prefill = torch.tensor([text[:longest] for text in texts])
    output = target.forward(prefill, cache, (1,), logits_at=starts - 1)
    cache.commit(starts)
    assert output.logits.shape == (3, 1, 40)
    wrong = torch.randint(1, 40, (3, 5))  # drafted, all rejected
    target.forward(wrong, cache)
    cache.commit(torch.zeros(3, dtype=torch.long))
    block = torch.tensor([text[start : start + 4] for text, start in zip(texts, starts.tolist(), strict=True)])
    output = target.forward(block, cache, (1,))
    cache.commit(torch.tensor([4, 2, 1]))
    assert cache.lengths.tolist() == [10, 5, 6]
    for row, (text, start) in enumerate(zip(texts, starts.tolist(), strict=True)):
        ids = torch.tensor([text[: start + 4]])
        documents = torch.zeros_like(ids)
        whole = target.logits(ids, documents)[0, start:]
        torch.testing.assert_close(output.logits[row], whole, rtol=1e-4, atol=2e-4)
        features = target.features(ids, documents, (1,))[0, start:]
        torch.testing.assert_close(output.features[row], features, rtol=1e-4, atol=2e-4)


def test_documents_of_a_row_do_not_mix(target: Target) -> None:
    first, second = torch.randint(1, 40, (5,)), torch.randint(1, 40, (7,))
    packed = torch.cat((first, second, torch.zeros(2, dtype=torch.long)))[None]
    documents = torch.tensor([[0] * 5 + [1] * 7 + [-1] * 2])
    logits = target.logits(packed, documents)[0]
    for part, ids in ((slice(0, 5), first), (slice(5, 12), second)):
        alone = target.logits(ids[None], torch.zeros(1, len(ids), dtype=torch.long))[0]
        torch.testing.assert_close(logits[part], alone, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(logits).all()


def test_features_of_the_last_layer_come_before_the_final_norm(target: Target) -> None:
    ids = torch.randint(1, 40, (1, 6))
    documents = torch.zeros_like(ids)
    features = target.features(ids, documents, (3,))
    logits = target.head(target.model.model.norm(features))
    torch.testing.assert_close(logits, target.logits(ids, documents), rtol=1e-4, atol=1e-4)


def test_a_scaled_head_is_refused() -> None:
    model = make_model("llama")
    forward = model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    model.forward = scaled
    with pytest.raises(UserError, match="logits are not its head"):
        Target(model)


def test_layers_out_of_range_are_named(target: Target) -> None:
    with pytest.raises(UserError, match=r"feature layer 9 does not exist.*layers 0 to 3"):
        target.check_layers((1, 9))


def test_a_checkpoint_with_missing_weights_is_refused(target_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(target_directory, tmp_path / "target")
    weights = tmp_path / "target" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack model\.layers\.1\.mlp\.up_proj"):
        Target.load(str(tmp_path / "target"))


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        Target.load(str(tmp_path))
    make_model("qwen3").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    assert Target.load(str(tmp_path)).tokenizer is None
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be loaded"):
        Target.load(str(tmp_path))
    with pytest.raises(UserError, match=r"target no/such-model is no directory here, not in .* offline mode"):
        Target.load("no/such-model")
    with pytest.raises(UserError, match="dtype 'int4' is not known"):
        Target.load(str(tmp_path), dtype="int4")


def test_a_cpu_by_any_name_computes_in_float32(target_directory: Path, tmp_path: Path) -> None:
    """Processes of a distributed run call theirs `cpu:0`; the checkpoint's bfloat16 must not stay there either."""
    AutoModelForCausalLM.from_pretrained(target_directory, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for device in (None, "cpu", "cpu:0"):
        assert Target.load(str(tmp_path), device=device).dtype == torch.float32
    assert Target.load(str(tmp_path), "bfloat16", "cpu:0").dtype == torch.bfloat16


def test_weights_in_column_order_are_the_same_weights(target_directory: Path) -> None:
    loaded = Target.load(str(target_directory))
    plain = Target(AutoModelForCausalLM.from_pretrained(target_directory, dtype=torch.float32))
    ids = torch.randint(1, 60, (2, 11))
    documents = torch.zeros_like(ids)
    torch.testing.assert_close(loaded.logits(ids, documents), plain.logits(ids, documents), rtol=1e-4, atol=1e-4)
    weight = loaded.layers[0].self_attn.q_proj.weight
    assert weight.stride() == (1, weight.shape[0]) and loaded.embedding.weight.is_contiguous()


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_without_its_instructions_is_warned_of(
    fast: bool, target_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("paradraft.models.target.bfloat16_is_fast", lambda device: fast)
    Target.load(str(target_directory), "bfloat16")
    assert ("hundreds of times slower than float32" in caplog.text) != fast
    caplog.clear()
    Target.load(str(target_directory), "float32")
    assert not caplog.text
