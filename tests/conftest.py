"""Tiny random models, made on the spot: every test runs on a CPU in seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # one that is set, such as 0, lets the tests of a GPU see it
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from demo_target.tokenizer import train_tokenizer
from paradraft.drafters import DRAFTERS, DFlash, Drafter, Pard, Pard2, Vanilla
from paradraft.models import Target

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def make_model(family: str, seed: int = 0, **sizes: Any) -> Any:
    """A random model of a family; `sizes` replaces entries of SIZES."""
    torch.manual_seed(seed)
    settings = SIZES | sizes
    full = {"layer_types": ["full_attention"] * settings["num_hidden_layers"]}
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**settings))
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**settings))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**settings))
    if family == "gemma":
        return GemmaForCausalLM(GemmaConfig(**settings))
    if family == "gemma2":
        config = Gemma2Config(**settings, **full, final_logit_softcapping=5.0, attn_logit_softcapping=9.0)
        config._attn_implementation = "eager"
        return Gemma2ForCausalLM(config)
    window = {"sliding_window": 5}
    if family == "gemma3":  # two bases of rotary positions, one for each type of layer
        mixed = [("sliding_attention", "full_attention")[i % 2] for i in range(settings["num_hidden_layers"])]
        return Gemma3ForCausalLM(Gemma3TextConfig(**window | settings, layer_types=mixed))
    if family == "gpt_oss":  # attention sinks; sliding and full layers in turn
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
        return GptOssForCausalLM(GptOssConfig(**settings, **window, **rope, num_local_experts=4, num_experts_per_tok=2))
    if family == "mistral":  # the window is in every layer
        return MistralForCausalLM(MistralConfig(**window | settings))
    if family == "qwen3_moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings, **experts))
    raise ValueError(family)


FAMILIES = ("qwen3", "llama", "gemma", "gemma2", "gemma3", "gpt_oss", "mistral", "qwen3_moe")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is made of GGUF files stays out of the user's cache."""
    os.environ["PARADRAFT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def drafter_values(kind: str, **values: Any) -> dict[str, Any]:
    """The `drafter` section of a kind as a file has it: of the values those that it knows; EAGLE-3 has one layer."""
    values = {"markov_rank": 8, "conv_group": 8, "selector_rank": 8, "selector_top_k": 4, **values}
    known = set(DRAFTERS[kind].section.model_fields) - ({"layers"} if kind == "eagle3" else set())
    return {"kind": kind, **{name: value for name, value in values.items() if name in known}}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def target() -> Target:
    return Target(make_model("qwen3"))


@pytest.fixture
def drafter(target: Target) -> DFlash:
    return make_drafter(target)


def make_drafter(target: Target, block_size: int = 6, layers: int = 2, seed: int = 1) -> DFlash:
    """A DFlash drafter with weights large enough that its drafts are not all the same."""
    torch.manual_seed(seed)
    drafter = DFlash.fresh(target, layers=layers, block_size=block_size)
    with torch.no_grad():
        for parameter in drafter.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return drafter.eval()


KINDS = tuple(DRAFTERS)
BOUND = tuple(kind for kind in KINDS if DRAFTERS[kind].bound)  # read the target's features, embed with its embedding
VARIANTS: list[tuple[str, dict[str, Any]]] = [  # other ways of a kind that draft differently
    ("dflash", {"causal": True}),
    *(("dspark", {"markov_head": name, "confidence_head": name == "rnn"}) for name in ("gated", "rnn")),
]


def make_drafter_of(
    kind: str, target: Target, draft_length: int = 5, layers: int = 2, seed: int = 1, **own: Any
) -> Drafter:
    """A random drafter of any kind, its drafts not all the same; language models have an architecture of their own.

    `own`: other fields of the section of a kind that is bound to its target.
    """
    if kind == "dflash" and not own:
        return make_drafter(target, draft_length + 1, layers, seed)
    if kind in BOUND:
        torch.manual_seed(seed)
        anchor_drafts = kind == "dspark" or (kind == "dflash2_tied" and own.get("sample_from_anchor", True))
        slots = draft_length + (not anchor_drafts)
        values = drafter_values(kind, layers=layers, draft_length=draft_length, block_size=slots, **own)
        bound = DRAFTERS[kind].create(DRAFTERS[kind].section.model_validate(values), target)
        with torch.no_grad():
            for parameter in bound.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=0.3)
        return bound.eval()
    model = make_model("llama", seed, num_hidden_layers=layers, hidden_size=24, vocab_size=target.vocabulary_size)
    mask = target.vocabulary_size - 1
    if kind == "vanilla":
        return Vanilla(model, target, draft_length).eval()
    if kind == "pard":
        return Pard(model, target, draft_length, mask, cod_ratio=1.0).eval()
    layers_read = (len(target.layers), 0)
    width = 2 * target.hidden_size
    torch.manual_seed(seed)
    drafter = Pard2(model, target, draft_length, mask, layers_read, width, 0.3, feature_dropout=0.0, cod_ratio=1.0)
    torch.nn.init.normal_(drafter.target_proj.weight, std=width**-0.5)
    return drafter.eval()


@pytest.fixture(scope="session")
def target_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random target with a tokenizer and chat template, saved as Hugging Face saves them."""
    directory = tmp_path_factory.mktemp("target")
    tokenizer = train_tokenizer(["the cat sat on the mat", "a dog ran to the house", "1 2 3 4"] * 3)
    model = make_model("qwen3", vocab_size=len(tokenizer) + 8, max_position_embeddings=128)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    return write_conversations(tmp_path / "train.jsonl")


def write_conversations(path: Path) -> Path:
    """A training file of 24 short conversations."""
    lines = []
    for i in range(24):
        phrases = ["the cat sat", "a dog ran", "on the mat", "to the house"]
        answer = " ".join(phrases[(i + j) % 4] for j in range(2 + i % 5))
        messages = [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def drafter_directory(target_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drafter")
    DFlash.fresh(Target.load(str(target_directory)), layers=2, block_size=4).save_pretrained(directory)
    return directory


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl")


def write_prompts(path: Path) -> Path:
    records = [{"id": "a", "turns": ["the cat", "and the dog?"]}, {"prompt": "a dog"}, {"prompt": "1 2 3"}]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path
