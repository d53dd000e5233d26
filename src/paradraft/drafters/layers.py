"""Decoder layers of a drafter as Qwen3 has them (normed queries and keys, rotary positions, SwiGLU), or Llama."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.cpu_kernels import Product
from .attention import attend
from .layer_config import LayerConfig


def init_matrices(module: nn.Module) -> None:
    """Random matrices, normal with standard deviation width^-1/2: 0.02 at a width of 2,560."""
    for matrix in (p for p in module.parameters() if p.ndim == 2):
        nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5)


class RMSNorm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding, half-rotation (NeoX) form: x [rows, heads, T, dim], cos and sin [rows, 1, T, dim]."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def rotation_at(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [rows, 1, T, head_dim] for positions [rows, T]."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device) / head_dim
    angles = positions[..., None].float() * theta**-exponents  # never in lower precision
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Attention(nn.Module):
    """Queries from the block; keys and values from the context and from the block.

    `inputs`: its width, if not the hidden size. `normed`: queries and keys are (Qwen3), else not (Llama).
    """

    def __init__(self, config: LayerConfig, inputs: int | None = None, normed: bool = True) -> None:
        super().__init__()
        size, dim = inputs or config.hidden_size, config.head_dim
        self.head_dim = dim
        self.q_proj = nn.Linear(size, config.heads * dim, bias=False)
        self.k_proj = nn.Linear(size, config.key_value_heads * dim, bias=False)
        self.v_proj = nn.Linear(size, config.key_value_heads * dim, bias=False)
        self.o_proj = nn.Linear(config.heads * dim, config.hidden_size, bias=False)
        self.key_value: Product | None = None  # both projections in one, at decoding
        self.q_norm = RMSNorm(dim, config.norm_epsilon) if normed else nn.Identity()
        self.k_norm = RMSNorm(dim, config.norm_epsilon) if normed else nn.Identity()

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def keys_values(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[rows, key_value_heads, T, dim] each; keys normed and rotated to their positions."""
        keys, values = (self.k_proj(x), self.v_proj(x)) if self.key_value is None else self.key_value(x).chunk(2, -1)
        keys = self.k_norm(keys.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return rotate(keys, rotation), self._heads(values)

    def queries(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        return rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2), rotation)

    def attend(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, mask: Any) -> Tensor:
        attended = attend(self.queries(x, rotation), keys, values, mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

        self.gate_up: Product | None = None  # both projections in one, at decoding

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.gate_proj(x), self.up_proj(x)) if self.gate_up is None else self.gate_up(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_epsilon)

    def run(self, hidden: Tensor, attention: Callable[[Tensor], Tensor], block: int) -> Tensor:
        """Hidden states [rows, T, H] of whole blocks of `block` slots; `attention` is given them normed."""
        hidden = hidden + attention(self.input_layernorm(hidden))
        after: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return after

    def fuse(self, pack: bool) -> list[nn.Module]:
        """Fuse projections that share an input into one product. Returns the layers that were fused."""
        attention, mlp = self.self_attn, self.mlp
        attention.key_value = Product((attention.k_proj, attention.v_proj), pack)
        mlp.gate_up = Product((mlp.gate_proj, mlp.up_proj), pack)
        return [*attention.key_value.linears, *mlp.gate_up.linears]
