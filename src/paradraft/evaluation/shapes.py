"""Models of published sizes with random weights: their speed is that of the real ones, their text means nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from ..drafters import DFlash, Drafter, Pard2
from ..errors import UserError
from ..models import Target
from ..models.target import DTYPES

PREFIX = "random:"
PARD2_DRAFT_LENGTH = 16


@dataclass(frozen=True)
class Shape:
    """A target with the drafters published for it: DFlash by layers and block size, PARD-2 by its language model."""

    target: PretrainedConfig
    dflash: tuple[int, int]
    pard2: PretrainedConfig


def qwen3(layers: int, hidden: int, intermediate: int, heads: int, tied: bool, vocabulary: int = 151_936) -> Any:
    """With fewer than 8 heads a toy, whose weights are large: its texts do not loop."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8 if heads >= 8 else 1,
        head_dim=128 if heads >= 8 else 16,
        initializer_range=0.02 if heads >= 8 else 0.3,
        max_position_embeddings=40_960,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )


def llama(layers: int, hidden: int, intermediate: int, tied: bool) -> Any:
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )


SHAPES = {
    "qwen3-4b": Shape(qwen3(36, 2560, 9728, 32, True), (5, 16), qwen3(28, 1024, 3072, 16, True)),
    "qwen3-8b": Shape(qwen3(36, 4096, 12_288, 32, False), (3, 16), qwen3(28, 1024, 3072, 16, True)),
    "llama-3.1-8b": Shape(llama(32, 4096, 14_336, False), (3, 10), llama(16, 2048, 8192, True)),
    "toy": Shape(qwen3(4, 64, 128, 4, True, 512), (2, 8), qwen3(2, 32, 64, 4, True, 512)),
}


def is_random(name: str) -> bool:
    return name.startswith(PREFIX)


def random_pair(target: str, drafters: list[str], dtype: str) -> tuple[Target, dict[str, Drafter]]:
    """A target `random:SHAPE` and drafters `random:dflash` or `random:pard2` of the sizes published for it."""
    name = target.removeprefix(PREFIX)
    if name not in SHAPES:
        raise UserError(f"{target} is not known; random weights come in the sizes of {', '.join(SHAPES)}")
    if dtype != "auto" and dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known: use one of auto, {', '.join(DTYPES)}")
    shape, device = SHAPES[name], "cuda" if torch.cuda.is_available() else "cpu"
    chosen = DTYPES.get(dtype, torch.float32 if device == "cpu" else torch.bfloat16)
    with made_on(device, chosen):
        loaded = Target(AutoModelForCausalLM.from_config(shape.target, dtype=chosen), name=target)
        loaded.prepare_decoding()
        made = {drafter: random_drafter(drafter, shape, loaded, chosen) for drafter in drafters}
    return loaded, made


def random_drafter(name: str, shape: Shape, target: Target, dtype: torch.dtype) -> Drafter:
    mask, count = target.vocabulary_size - 1, len(target.layers)
    drafter: Drafter
    if name == PREFIX + "dflash":
        layers, block = shape.dflash
        drafter = DFlash.fresh(target, layers, block, None, mask)
    elif name == PREFIX + "pard2":
        read = tuple(sorted({max(0, count * quarters // 4 - 1) for quarters in (1, 2, 3)}))
        model = AutoModelForCausalLM.from_config(shape.pard2, dtype=dtype)
        drafter = Pard2(model, target, PARD2_DRAFT_LENGTH, mask, read, len(read) * target.hidden_size)
    else:
        raise UserError(f"{name} is not known; a target with random weights takes {PREFIX}dflash or {PREFIX}pard2")
    drafter = drafter.to(dtype).eval()
    drafter.prepare_decoding()
    return drafter


def synthetic_prompts(vocabulary: int, context: int, count: int = 64) -> list[list[int]]:
    """Different prompts of `context` tokens each, which mean nothing."""
    return [[(7 * i + n) % (vocabulary - 2) + 1 for n in range(context)] for i in range(count)]


@contextmanager
def made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """What is made inside is made on this device at once, in this type: 8 billion numbers are not moved."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
