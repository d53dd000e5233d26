"""A tiny Llama as a GGUF file, written with the `gguf` package the way llama.cpp's converter writes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quants
from transformers import PreTrainedTokenizerFast

from demo_target.tokenizer import train_tokenizer
from tests.conftest import make_model

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    quantized: bool = False,
    split: str = "gpt-2",
    layers: int = 2,
    more: Callable[[GGUFWriter], Any] = lambda writer: None,
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Write it and return the model and the tokenizer that it holds.

    layers: how many of its two are written. more: writes further fields and tensors.
    """
    tokenizer = train_tokenizer(["the cat sat on the mat", "a dog ran to the house", "1 2 3 4\n\n5"] * 3)
    model = make_model(
        "llama", vocab_size=len(tokenizer), intermediate_size=64, num_hidden_layers=2, tie_word_embeddings=True
    )
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if quantized else LlamaFileType.ALL_F32)
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tokenizer, split)
    more(writer)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" and not name.startswith(f"model.layers.{layers}."):
            add_tensor(writer, name.removesuffix(".weight"), tensor.numpy(), config, quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, split: str) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    assert tokenizer.eos_token_id is not None
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(str(tokenizer.chat_template))


def add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, config: Any, quantized: bool) -> None:
    """Under llama.cpp's name, queries and keys in its order of rotary pairs."""
    if name.endswith(("q_proj", "k_proj")):
        heads = config.num_attention_heads if name.endswith("q_proj") else config.num_key_value_heads
        values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    known = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    if name not in known:
        layer, part = name.removeprefix("model.layers.").split(".", 1)
        known[name] = f"blk.{layer}.{NAMES[part]}"
    target = f"{known[name]}.weight"
    if quantized and values.ndim == 2:
        packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
        writer.add_tensor(target, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(target, values.astype(np.float32))
