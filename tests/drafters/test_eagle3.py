"""EAGLE-3: what its layer computes, what its steps see, and the directory that engines read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from paradraft.decoding import Engine
from paradraft.drafters import Batch, Eagle3, load_drafter
from paradraft.drafters.attention import dense_mask
from paradraft.drafters.eagle3 import Eagle3Section, unrolled_predicate
from paradraft.drafters.eagle3_config import published_layers
from paradraft.drafters.vocabulary import DraftVocabulary
from paradraft.errors import UserError
from paradraft.models import Target
from tests.conftest import make_drafter_of, make_model
from tests.drafters.test_parity import drafting_logits


@pytest.fixture
def eagle(target: Target) -> Eagle3:
    drafter = make_drafter_of("eagle3", target)
    assert isinstance(drafter, Eagle3)
    return drafter


def test_a_step_sees_its_document_but_for_its_first_place_and_its_own_steps() -> None:
    """Documents 0..3 and 4..7, anchors 2 and 6, the third step: keys are 8 places, then two steps of both anchors."""
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    predicate = unrolled_predicate(torch.tensor([[2, 6]]), documents)
    mask = dense_mask(predicate, 1, 2, 12, torch.device("cpu"))[0, 0].int()
    assert mask.tolist() == [
        [0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1],
    ]


def published(drafter: Eagle3, embedded: Tensor, features: Tensor, steps: Tensor) -> list[Tensor]:
    """Logits of every step as the published code computes them: one row, a causal layer, run again from the start.

    embedded [T, H] of tokens 1..T; features [T, F] of positions 0..T - 1; steps [K - 1, H]: of the drafted tokens.
    """
    weights = {name: tensor for name, tensor in drafter.state_dict().items() if name.startswith("midlayer.")}
    config = drafter.config

    def normed(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weights[f"midlayer.{name}.weight"], config.norm_epsilon)

    def turned(x: Tensor) -> Tensor:
        half = config.head_dim // 2
        angles = torch.arange(len(x))[:, None] / config.rope_theta ** (torch.arange(half) / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat((x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin), -1)

    hidden, found = features @ drafter.fc.weight.T, []
    for step in range(len(steps) + 1):
        x = torch.cat((normed(embedded, "input_layernorm"), normed(hidden, "hidden_norm")), -1)
        q, k, v = (
            (x @ weights[f"midlayer.self_attn.{name}_proj.weight"].T).unflatten(-1, (-1, config.head_dim))
            for name in "qkv"
        )
        k, v = (part.repeat_interleave(config.heads // config.key_value_heads, 1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", turned(q), turned(k)) / config.head_dim**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
        after = hidden + attended @ weights["midlayer.self_attn.o_proj.weight"].T
        y = normed(after, "post_attention_layernorm")
        gate, up = (y @ weights[f"midlayer.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        after = after + (F.silu(gate) * up) @ weights["midlayer.mlp.down_proj.weight"].T
        last = F.rms_norm(after[-1], (after.shape[-1],), drafter.norm.weight, config.norm_epsilon)
        found.append(last @ drafter.lm_head.weight.T)
        if step < len(steps):
            embedded, hidden = torch.cat((embedded, steps[step : step + 1])), torch.cat((hidden, after[-1:]))
    return found


def test_drafts_are_those_of_the_published_layout(target: Target, eagle: Eagle3) -> None:
    """Place i pairs the features of position i with token i + 1; the output before the norm feeds back."""
    ids = torch.randint(1, 39, (1, 14), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        features = target.features(ids, torch.zeros_like(ids), eagle.feature_layers)[0]
        embedded = target.embedding(ids[0])
        wanted = published(eagle, embedded[1:9], features[:8], embedded[9:13])
        found = drafting_logits(eagle, target, ids, [8], pieces=1)[0]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_documents_in_one_row_are_trained_as_if_alone(target: Target, eagle: Eagle3) -> None:
    ids = torch.randint(1, 39, (1, 20), generator=torch.Generator().manual_seed(3))
    documents = (torch.arange(20) >= 9).long()[None]
    logits = []
    for part, document in ((ids, documents), (ids[:, 9:], torch.zeros(1, 11, dtype=torch.long))):
        batch = Batch(part, torch.ones_like(part).bool(), document)
        grid = eagle.grid(batch, 20, [0])
        with torch.no_grad():
            hidden = eagle(grid, target.features(part, document, eagle.feature_layers))
        found = {int(a): eagle.head(h)[v] for a, h, v in zip(grid.anchors, hidden, grid.valid, strict=True) if v[0]}
        logits.append(found)
    assert 0 not in logits[1] and 9 not in logits[0] and len(logits[1]) == 9  # no features before a first token
    for anchor, alone in logits[1].items():
        torch.testing.assert_close(logits[0][9 + anchor], alone, rtol=1e-4, atol=1e-4)


def test_prompts_of_one_token_are_drafted_for(target: Target, eagle: Eagle3) -> None:
    prompts = [[3], [7, 8], [9]]
    plain = Engine(target).generate(prompts, 16, ())
    assert [g.tokens for g in Engine(target, eagle).generate(prompts, 16, ())] == [g.tokens for g in plain]


def test_directory_is_what_engines_read(target: Target, eagle: Eagle3, tmp_path: Path) -> None:
    eagle.restrict(DraftVocabulary(torch.tensor([1, 4, 30]), 40))
    eagle.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    layers = list(eagle.feature_layers)
    assert config["architectures"] == ["LlamaForCausalLMEagle3"] and config["model_type"] == "llama"
    assert config["eagle_aux_hidden_state_layer_ids"] == [i + 1 for i in layers]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == layers
    assert config["draft_vocab_size"] == 3 and config["num_hidden_layers"] == 1
    tensors = load_file(tmp_path / "model.safetensors")
    layer = {f"self_attn.{n}_proj.weight" for n in "qkvo"} | {f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
    layer |= {f"{n}.weight" for n in ("input_layernorm", "hidden_norm", "post_attention_layernorm")}
    wanted = {f"midlayer.{name}" for name in layer} | {"fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"}
    assert set(tensors) == wanted
    assert tensors["midlayer.self_attn.q_proj.weight"].shape == (32, 64) and tensors["lm_head.weight"].shape == (3, 32)
    assert (tensors["d2t"] + torch.arange(3)).tolist() == [1, 4, 30]
    again = load_drafter(tmp_path, target)
    assert isinstance(again, Eagle3) and again.config == eagle.config
    for name, tensor in eagle.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_both_residuals_are_known(target: Target, eagle: Eagle3, tmp_path: Path) -> None:
    """The features themselves, or as published drafters of some trainers, the normed ones."""
    other = Eagle3(replace(eagle.config, norm_before_residual=True), target).eval()
    other.load_state_dict(eagle.state_dict())
    ids = torch.randint(1, 39, (1, 12), generator=torch.Generator().manual_seed(4))
    drafts = [drafting_logits(drafter, target, ids, [6], 1) for drafter in (eagle, other)]
    assert not torch.allclose(*drafts, atol=1e-2)
    other.save_pretrained(tmp_path)
    again = load_drafter(tmp_path, target)
    torch.testing.assert_close(drafting_logits(again, target, ids, [6], 1), drafts[1], rtol=1e-4, atol=1e-4)


def test_feature_layers() -> None:
    assert published_layers(36) == (1, 17, 32)  # hidden states 2, 18, 33
    assert published_layers(30) == (1, 14, 26)
    assert published_layers(4) == (0, 1)
    assert published_layers(1) == (0,)


def test_a_run_starts_from_a_drafter(target: Target, eagle: Eagle3, tmp_path: Path) -> None:
    eagle.save_pretrained(tmp_path)
    made = {"init_from": str(tmp_path), "draft_length": 3}
    again = Eagle3.create(Eagle3Section.model_validate(made), target)
    assert again.max_draft == 3 and torch.equal(again.lm_head.weight, eagle.lm_head.weight)
    with pytest.raises(UserError, match=r"feature_layers is .* has .*; set it to that"):
        Eagle3.create(Eagle3Section.model_validate(made | {"feature_layers": [0, 2]}), target)
    fresh = Eagle3.create(Eagle3Section(), target)
    assert torch.equal(fresh.lm_head.weight, target.output_embedding.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_hidden_layers": 2}, "it has 2 layers"),
        ({"hidden_size": "32"}, "hidden_size must be a positive number"),
        ({"eagle_aux_hidden_state_layer_ids": [3, 1]}, "ascending"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"vocab_size": 50}, "vocabulary 50, but"),
    ],
)
def test_broken_directories_are_named(
    target: Target, eagle: Eagle3, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    eagle.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=complaint):
        load_drafter(tmp_path, target)


def test_drafters_of_other_targets_are_refused(eagle: Eagle3, tmp_path: Path) -> None:
    eagle.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="hidden size 32, but"):
        load_drafter(tmp_path, Target(make_model("qwen3", hidden_size=16)))
