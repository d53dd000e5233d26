"""A lean forward of the common decoder (Llama, Qwen2, Qwen3, Mistral), equal to Transformers' own.

Projections of one input are one product, positions are rotated from a table, the mask is made once, keys and values go
straight to their slots, and no module is called. Every other architecture takes Transformers' forward, the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import additive, sliding_window
from .cpu_kernels import PackedLinear, Product, linears_to_pack, pack_for_decoding
from .packing import Packing
from .slots import Index, KeyValueSlots, SlotLayer

COMMON = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True)
class Round:
    """What the layers of one forward share.

    rotation: cos and signed sin [R, T, 1, dim]. runs: rows whose slots stand side by side, their slots, the number of
    keys that they read, and their mask. index: where keys and values go; None: where the cache reserved. With a
    `packing` hidden states and rotation are packed, [1, S, ...].
    """

    rotation: tuple[Tensor, Tensor]
    runs: list[tuple[slice, slice, int, Tensor | None]]
    index: Index | None = None
    packing: Packing | None = None


class LeanLayer:
    """The weights of one decoder layer as it is run."""

    def __init__(self, layer: Any, pack: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before = layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon
        self.between = layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon
        self.qkv = Product((attention.q_proj, attention.k_proj, attention.v_proj), pack)
        self.out = Product((attention.o_proj,), pack)
        self.gate_up = Product((mlp.gate_proj, mlp.up_proj), pack)
        self.down = Product((mlp.down_proj,), pack)
        self.scale: float = attention.scaling
        self.head_dim: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.head_dim
        self.key_heads = attention.k_proj.out_features // self.head_dim
        self.group = self.heads // self.key_heads
        self.normed: tuple[Tensor, float] | None = None
        if getattr(attention, "q_norm", None) is not None:
            queries = attention.q_norm.weight.expand(self.heads, -1)
            weights = torch.cat((queries, attention.k_norm.weight.expand(self.key_heads, -1)))
            self.normed = weights.detach(), attention.q_norm.variance_epsilon

    @property
    def products(self) -> tuple[Product, ...]:
        return self.qkv, self.out, self.gate_up, self.down

    def attend(self, hidden: Tensor, held: SlotLayer, shared: Round) -> Tensor:
        """The attention's output [R, T, H], packed as `hidden` is.

        The query heads that share a key head are queries of that one head, so that its keys are read once.
        """
        states = self.qkv(rms_norm(hidden, self.before)).view(*hidden.shape[:2], -1, self.head_dim)
        both, values = states.split((self.heads + self.key_heads, self.key_heads), dim=2)
        if self.normed is not None:
            weights, epsilon = self.normed
            both = F.rms_norm(both, (self.head_dim,), None, epsilon) * weights
        both = rotated(both, shared.rotation)
        if shared.packing is not None:
            both, values = shared.packing.pad(both), shared.packing.pad(values)
        rows, tokens = both.shape[:2]
        both = both.transpose(1, 2)
        queries, keys = both[:, : self.heads], both[:, self.heads :]
        queries = queries.reshape(rows, self.key_heads, self.group * tokens, self.head_dim)
        all_keys, all_values = held.write(keys, values.transpose(1, 2), shared.index)
        found = []
        for row, slot, end, mask in shared.runs:
            known = all_keys[slot, :, :end], all_values[slot, :, :end]
            found.append(F.scaled_dot_product_attention(queries[row], *known, mask, scale=self.scale))
        attended = found[0] if len(found) == 1 else torch.cat(found)
        attended = attended.reshape(rows, self.heads, tokens, self.head_dim)  # fused kernels choose their strides
        attended = attended.transpose(1, 2).reshape(rows, tokens, -1)
        return self.out(attended if shared.packing is None else shared.packing.pack(attended))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up(rms_norm(hidden, self.between)).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class LeanDecoder:
    """Runs the decoder of a Hugging Face model whose weights are final and stay where they are."""

    def __init__(self, model: Any, pack: bool) -> None:
        self.layers = [LeanLayer(layer, pack) for layer in model.base_model.layers]
        self.norm = model.base_model.norm.weight, model.base_model.norm.variance_epsilon
        self.rotary = model.base_model.rotary_emb
        self._table: tuple[Tensor, Tensor] | None = None

    @property
    def products(self) -> list[Product]:
        return [product for layer in self.layers for product in layer.products]

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        visible: Tensor,
        cache: KeyValueSlots,
        feature_layers: Sequence[int] = (),
        packing: Packing | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Final-normed hidden states of embeddings [R, T, H], and the outputs of some layers.

        positions [R, T] and visible [R, T, end] as `cache.reserve` gave them; the id N of a model with N layers is the
        output after the final norm. With a `packing` embeddings and results are packed.
        """
        group = self.layers[0].group
        runs = [(row, slot, end, run_mask(visible[row, :, :end], hidden.dtype, group)) for row, slot, end in cache.runs]
        positions = positions if packing is None else packing.pack(positions)
        shared = Round(rotation_at(self.table(cache.capacity, hidden), positions), runs, None, packing)
        return self.through(hidden, cache.layers, shared, feature_layers)

    def through(
        self, hidden: Tensor, held: Sequence[Any], shared: Round, feature_layers: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """As `run`, with the cache's layers `held`."""
        outputs = {}
        for number, (layer, own) in enumerate(zip(self.layers, held, strict=True)):
            hidden = hidden + layer.attend(hidden, own, shared)
            hidden = hidden + layer.feed_forward(hidden)
            if number in feature_layers:
                outputs[number] = hidden
        hidden = outputs[len(self.layers)] = rms_norm(hidden, self.norm)
        return hidden, [outputs[number] for number in feature_layers]

    def table(self, capacity: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin [capacity or more, dim] of every position."""
        if self._table is None or len(self._table[0]) < capacity:
            cos, sin = self.rotary(like, torch.arange(capacity, device=like.device)[None])
            half = sin.shape[-1] // 2
            self._table = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        return self._table


def rotation_at(table: tuple[Tensor, Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and signed sin [R, T, 1, dim] of positions [R, T]."""
    cos, sin = table
    return cos[positions][:, :, None], sin[positions][:, :, None]


def rms_norm(hidden: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    weight, epsilon = norm
    return F.rms_norm(hidden, weight.shape, weight, epsilon)


def rotated(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding, half-rotation form: states [R, T, heads, dim]; the sine's first half carries its sign."""
    cos, sin = rotation
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin)


def run_mask(visible: Tensor, dtype: torch.dtype, group: int) -> Tensor | None:
    """The additive mask [R, 1, group * T, end] of what is visible; None for a single token, which sees all."""
    return None if visible.shape[:2] == (1, 1) else group_mask(visible, dtype, group)


def group_mask(visible: Tensor, dtype: torch.dtype, group: int) -> Tensor:
    return additive(visible, dtype).repeat(1, 1, group, 1)


def is_common(model: Any) -> bool:
    """Whether a lean forward says the same as the model's own: a known architecture, nothing added, not quantised."""
    if getattr(model, "hf_quantizer", None) is not None:
        return False
    if type(model).__name__ not in COMMON or not type(model).__module__.startswith("transformers."):
        return False
    config, base = model.config, model.base_model
    dims = 2 * base.rotary_emb.inv_freq.shape[-1]
    plain = all(
        type(module) in (nn.Linear, PackedLinear) and type(module.weight) is nn.Parameter
        for layer in base.layers
        for name, module in layer.named_modules()
        if name.endswith("_proj")
    )
    return (
        plain
        and sliding_window(config) is None
        and config.hidden_act == "silu"
        and dims == base.layers[0].self_attn.head_dim
    )


def prepare_decoding(model: Any, owner: nn.Module | None = None) -> LeanDecoder | None:
    """A lean decoder of a causal LM if its architecture allows; all else in `owner` is packed layer by layer.

    `owner`: a module that `model` is part of; None: the model itself.
    """
    owner = model if owner is None else owner
    decoder = LeanDecoder(model, bool(linears_to_pack(owner))) if is_common(model) else None
    products = [] if decoder is None else decoder.products
    pack_for_decoding(owner, [linear for product in products for linear in product.linears])
    return decoder
