"""Where draft language models come from: fresh, from another model, from broken or unfitting directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from demo_target.tokenizer import train_tokenizer
from paradraft.decoding import Engine
from paradraft.drafters import DRAFTERS, DFlash, DFlashSection, Pard, Pard2, Vanilla, load_drafter
from paradraft.drafters.pard2 import PUBLISHED_SCALE, balanced_scale
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model


def section(kind: str, **values: Any) -> Any:
    sizes = {} if "init_from" in values else {"layers": 1}
    return DRAFTERS[kind].section.model_validate({**sizes, "draft_length": 4, **values})


def test_fresh_drafters_take_the_targets_architecture() -> None:
    target = Target(make_model("qwen3"))
    vanilla = Vanilla.create(section("vanilla", hidden_size=16), target)
    assert vanilla.model.config.hidden_size == 16 and vanilla.model.config.num_hidden_layers == 1
    assert vanilla.embedding.num_embeddings == target.vocabulary_size
    pard = Pard.create(section("pard"), target)
    assert pard.mask_token == 39 and pard.dtype == torch.float32
    fresh = Pard2.create(section("pard2"), target)
    assert fresh.dependent_layers == (1, 0)
    assert not fresh.target_proj.weight.any()  # a new projection must not spoil what the model knows


def test_starting_from_another_model(tmp_path: Path) -> None:
    """PARD starts from a plain draft model, and a plain one again from PARD, without either's marks."""
    target = Target(make_model("qwen3"))
    make_drafter_of("vanilla", target).save_pretrained(tmp_path / "a")
    pard = Pard.create(section("pard", init_from=str(tmp_path / "a")), target)
    assert torch.equal(pard.embedding.weight, load_drafter(tmp_path / "a", target).embedding.weight)  # type: ignore[union-attr]
    pard.save_pretrained(tmp_path / "b")
    assert load_drafter(tmp_path / "b", target).kind == "pard"
    assert Pard.create(section("pard", mask_token=7, init_from=str(tmp_path / "b")), target).mask_token == 7
    Vanilla.create(section("vanilla", init_from=str(tmp_path / "b")), target).save_pretrained(tmp_path / "c")
    assert load_drafter(tmp_path / "c", target).kind == "vanilla"


@pytest.mark.parametrize("family", ["gemma3", "smollm3"])
def test_layers_of_the_target_rotate_as_they_did(family: str) -> None:
    """Gemma 3 rotates by two rules, and SmolLM3 not in every layer."""
    if family == "smollm3":
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
        rotates = {"no_rope_layers": [1, 1, 0, 1, 0, 1], "num_key_value_heads": 2, "vocab_size": 40}
        torch.manual_seed(0)
        target = Target(SmolLM3ForCausalLM(SmolLM3Config(**sizes, **rotates, pad_token_id=0, initializer_range=0.2)))
    else:
        target = Target(make_model("gemma3", sliding_window=64))
    count, tokens = len(target.layers), torch.arange(1, 30)[None]
    whole = Vanilla.create(section("vanilla", init_from="target", layers=count), target).eval()
    torch.testing.assert_close(whole.model(tokens).logits, target.model(tokens).logits)
    some = Vanilla.create(section("vanilla", init_from="target", layers=3), target).eval()
    if family == "smollm3":
        assert some.model.config.no_rope_layers == [1, 1, 1]  # of layers 0, 1 and 5
    plain = Engine(target).generate([tokens[0].tolist()], 12)[0].tokens
    assert Engine(target, some).generate([tokens[0].tolist()], 12)[0].tokens == plain


@pytest.mark.parametrize("family", ["gpt_neox", "phi"])
def test_a_shared_embedding_has_any_name(family: str, tmp_path: Path) -> None:
    """GPT-NeoX calls embedding and head by other names, Phi's head has a bias."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    made = {
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, vocab_size=40)),
        "phi": lambda: PhiForCausalLM(PhiConfig(**sizes, vocab_size=40)),
    }[family]()
    if family == "phi":
        torch.nn.init.normal_(made.lm_head.bias)
    target = Target(made)
    drafter = Vanilla.create(section("vanilla", init_from="target", layers=3, share_embedding=True), target)
    drafter.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    (generation,) = Engine(target, again).generate([[5, 6, 7]], 12)
    assert all(r.accepted == len(r.drafted) for r in generation.rounds)  # all layers: the target itself
    once_more = Vanilla.create(section("vanilla", init_from=str(tmp_path)), target)
    tokens = torch.arange(1, 9)[None]
    torch.testing.assert_close(once_more.model(tokens).logits, target.model(tokens).logits)


def test_dropout_of_a_draft_model_is_off(tmp_path: Path) -> None:
    """It would be drawn from no seed of the run, and two runs with one seed would differ."""
    target = Target(make_model("llama", attention_dropout=0.5))
    fresh = Vanilla.create(section("vanilla"), target).train()  # its head was checked without dropout, too
    fresh.save_pretrained(tmp_path)
    for drafter in (fresh, Vanilla.create(section("vanilla", init_from=str(tmp_path)), target).train()):
        assert drafter.training and not any(module.training for module in drafter.model.modules())
        tokens = torch.arange(1, 9)[None]
        assert torch.equal(drafter.model(tokens).logits, drafter.model(tokens).logits)


def test_going_on_from_a_drafter_keeps_its_mask_and_its_projection(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    first = make_drafter_of("pard2", target)
    assert isinstance(first, Pard2)
    first.mask_token = 5
    first.save_pretrained(tmp_path)
    again = Pard2.create(section("pard2", init_from=str(tmp_path), feature_dropout=0.3), target)
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert (again.mask_token, again.scale, again.dependent_layers) == (5, first.scale, first.dependent_layers)
    assert (again.max_draft, again.feature_dropout) == (4, 0.3)
    assert Pard.create(section("pard", init_from=str(tmp_path)), target).mask_token == 5
    with pytest.raises(UserError, match=r"feature_layers is \(0, 1\), but .* has \(4, 0\)"):
        Pard2.create(section("pard2", init_from=str(tmp_path), feature_layers=[0, 1]), target)


@pytest.mark.parametrize("kind", ["vanilla", "pard", "pard2"])
def test_a_start_keeps_its_layers(kind: str, tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of(kind, target).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"drafter.layers is 1, but .* has 2; set it to that value"):
        DRAFTERS[kind].create(section(kind, init_from=str(tmp_path), layers=1), target)


@pytest.mark.parametrize(("name", "value"), [("mask_token", 7), ("hidden_size", 16), ("feature_scale", 0.5)])
def test_what_a_start_from_pard2_cannot_change_is_refused(name: str, value: float, tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("pard2", target).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"drafter.{name} is {value}, but"):
        Pard2.create(section("pard2", init_from=str(tmp_path), **{name: value}), target)


def test_features_enter_as_large_as_embeddings() -> None:
    target = Target(make_model("qwen3"))
    with torch.no_grad():
        target.embedding.weight *= 0.01
    tokens = torch.arange(32)[None]
    features = target.features(tokens, torch.zeros_like(tokens), (0, 1))
    scales = set()
    for share in (False, True):
        drafter = Pard2.create(section("pard2", share_embedding=share, mask_token=3), target)
        sizes = [x.square().mean(-1).sqrt().median() for x in (drafter.scale * features, drafter.embed(tokens))]
        assert 0.5 < sizes[0] / sizes[1] < 2
        scales.add(drafter.scale)
    assert len(scales) == 2  # each the one for its own embeddings
    assert Pard2.create(section("pard2", feature_scale=0.5), target).scale == 0.5
    with torch.device("meta"):
        unknown = Target(make_model("qwen3"))
    assert balanced_scale(unknown, (0, 1), unknown.embedding) == PUBLISHED_SCALE


def test_the_last_layer_is_read_by_no_new_drafter() -> None:
    target = Target(make_model("qwen3"))
    assert max(DFlash.create(DFlashSection(layers=3), target).feature_layers) < 3
    assert max(Pard2.create(section("pard2"), target).feature_layers) < 3
    for layers in ((1, 3), (1, 4)):
        for kind in (DFlash, Pard2):
            with pytest.raises(UserError, match="include the last layer"):
                kind.create(kind.section(layers=1, feature_layers=layers), target)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("pard_token", None, "pard_token in config.json must be a token's number, not None"),
        ("pard2_target_layers", None, "must be a list of numbers"),
        ("pard2_scale", "x", "pard2_scale in config.json must be a number"),
        ("paradraft", {"draft_length": "x"}, "does not hold numbers by name"),
        ("paradraft", {"draft_length": float("nan")}, "does not hold numbers by name"),
        ("paradraft", {"draft_length": 0}, "at least one token a round, not 0"),
        ("pard2_proj_bias", True, "with a bias is not supported"),
    ],
)
def test_broken_configurations_are_named(key: str, value: Any, complaint: str, tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("pard2", target).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=complaint):
        load_drafter(tmp_path, target)


def test_projections_of_another_shape_are_named(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("pard2", target).save_pretrained(tmp_path)
    (tmp_path / "pard2" / "target_proj.safetensors").unlink()
    for content, complaint in (
        ({"target_proj.weight": 3}, "must be one matrix"),
        ({"target_proj.weight": torch.zeros(4)}, "must be one matrix"),
        ({"target_proj.weight": torch.zeros(24, 64), "target_proj.bias": torch.zeros(24)}, "must be one matrix"),
        ({"target_proj.weight": torch.zeros(23, 64)}, "has width 23, its language model 24"),
    ):
        torch.save(content, tmp_path / "warp_model.bin")
        with pytest.raises(UserError, match=complaint):
            load_drafter(tmp_path, target)


def test_draft_models_with_scaled_heads_are_refused(tmp_path: Path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteConfig(vocab_size=40, num_key_value_heads=2, logits_scaling=8.0, **sizes)
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a scaled or adapted head"):
        load_drafter(tmp_path, Target(make_model("qwen3")))


def test_a_mask_is_added_where_none_is_free(target_directory: Path, tmp_path: Path) -> None:
    """The embedding grows by one row; its logits stay those of the target's vocabulary."""
    loaded = Target.load(str(target_directory))
    tokenizer = loaded.chat.tokenizer
    tokenizer.add_tokens([f"filler {i}" for i in range(loaded.vocabulary_size - len(tokenizer))])
    from paradraft.drafters.directory import RESERVED

    class Full:
        """The tokenizer, without reserved entries."""

        chat_template = None

        def get_vocab(self) -> dict[str, int]:
            return {t: i for t, i in tokenizer.get_vocab().items() if not RESERVED.fullmatch(t)}

        def __len__(self) -> int:
            return loaded.vocabulary_size

        def save_pretrained(self, directory: Path) -> None:
            pass

    target = Target(loaded.model, Full())  # type: ignore[arg-type]
    drafter = Pard.create(section("pard"), target)
    assert drafter.mask_token == target.vocabulary_size
    assert drafter.embedding.num_embeddings == target.vocabulary_size + 1
    drafter.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    assert isinstance(again, Pard) and again.mask_token == drafter.mask_token
    assert again.head(torch.randn(2, target.hidden_size)).shape == (2, target.vocabulary_size)


def test_draft_models_with_another_tokenizer_are_refused(target_directory: Path, tmp_path: Path) -> None:
    target = Target.load(str(target_directory))
    make_model("llama", vocab_size=target.vocabulary_size).save_pretrained(tmp_path)
    target.chat.tokenizer.save_pretrained(tmp_path)
    assert Vanilla.create(section("vanilla", init_from=str(tmp_path)), target).embedding.num_embeddings
    train_tokenizer(["quite another text", "with other words in it"] * 3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has another tokenizer than target"):
        Vanilla.create(section("vanilla", init_from=str(tmp_path)), target)


def test_a_start_of_another_width_than_the_run_says_is_refused(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_drafter_of("vanilla", target).save_pretrained(tmp_path)
    assert Pard.create(section("pard", init_from=str(tmp_path), hidden_size=24), target).max_draft
    with pytest.raises(UserError, match=r"drafter\.hidden_size is 16, but .* has 24"):
        Pard.create(section("pard", init_from=str(tmp_path), hidden_size=16), target)


def test_draft_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    target = Target(make_model("qwen3"))
    make_model("llama", vocab_size=30).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="embeddings for 30 tokens, target Qwen3ForCausalLM for 40"):
        load_drafter(tmp_path / "small", target)
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sliding = MistralForCausalLM(MistralConfig(vocab_size=40, num_key_value_heads=2, sliding_window=8, **sizes))
    sliding.save_pretrained(tmp_path / "sliding")
    with pytest.raises(UserError, match="has sliding-window layers; choose one with full attention"):
        load_drafter(tmp_path / "sliding", target)
    with pytest.raises(UserError, match="mask token 99 lies outside"):
        Pard.create(section("pard", mask_token=99), target)
