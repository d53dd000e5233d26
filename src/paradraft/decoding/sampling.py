"""From logits to tokens: temperature, then top-k, then top-p, as Transformers orders them; and the noise that picks.

Every sequence has noise of its own, so what is sampled for it does not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

SMALLEST = torch.finfo(torch.float32).tiny  # below it, a temperature's reciprocal is infinite
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 switch these off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top-k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p must lie in (0, 1], not {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [..., V] in float32 of logits [..., V]; a point mass on the largest at temperature 0."""
    if sampling.greedy:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    scaled = tempered(logits, torch.tensor(sampling.temperature))
    if 0 < sampling.top_k < scaled.shape[-1]:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < smallest, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = scaled.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= sampling.top_p, float("-inf"))  # the first always stays
        scaled = torch.empty_like(scaled).scatter_(-1, order, ordered)
    return scaled.softmax(-1)


def tempered(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits [..., V] in float32 divided by a temperature above 0, with the largest at 0, so that none is infinite."""
    below = logits.float() - logits.amax(-1, keepdim=True).float()
    return below / temperature.to(logits.device, torch.float32).clamp(min=SMALLEST)


def distributions(logits: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The same for logits [rows, ..., V] whose rows are sampled differently."""
    rows_of: dict[Sampling, list[int]] = {}
    for row, sampling in enumerate(samplings):
        rows_of.setdefault(sampling, []).append(row)
    if len(rows_of) == 1:
        return distribution(logits, samplings[0])
    found = torch.empty_like(logits, dtype=torch.float32)
    for sampling, rows in rows_of.items():
        found[rows] = distribution(logits[rows], sampling)
    return found


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index [...] that uniform [...] in [0, 1) picks from weights [..., V], which need not sum to 1."""
    cumulated = weights.double().cumsum(-1)  # in float32 the rounding of 150,000 additions would be seen
    point = uniform.double() * cumulated[..., -1]
    found = torch.searchsorted(cumulated, point[..., None], right=True).squeeze(-1)
    return found.clamp(max=weights.shape[-1] - 1)


def key_of(*numbers: int) -> int:
    """The 64-bit key of a stream of noise that any whole numbers (a seed, a place) name."""
    key = 0
    for number in numbers:
        key = _mixed((key + number + GOLDEN) % 2**64)
    return key


def noise(keys: Sequence[int], drawn: Sequence[int], count: int) -> Tensor:
    """[rows, count] numbers in [0, 1): the next ones of each row's stream, of which `drawn` were drawn before.

    SplitMix64 (Steele, Lea, Flood 2014): number n of a stream is a function of its key and n alone.
    """
    places = np.array(drawn, dtype=np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64)
    bits = _mixed(np.array(keys, dtype=np.uint64)[:, None] + places * np.uint64(GOLDEN))
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53)


def _mixed(x: Any) -> Any:
    """The output function of SplitMix64, of one number or of an array of uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 2**64 - 1
    return x ^ (x >> 31)
