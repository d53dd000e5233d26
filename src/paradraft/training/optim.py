"""The optimisers and their schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

MUON_VECTOR_RATE = 0.2  # of Muon's rate, for the vectors (embeddings among them) that AdamW trains beside it


class Optimizers:
    """One or two torch optimisers driven as one; `scales` are their learning rates relative to the schedule's."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], scales: list[float]) -> None:
        self.optimizers, self.scales = optimizers, scales

    def step(self, rate: float) -> None:
        for optimizer, scale in zip(self.optimizers, self.scales, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def make_optimizer(
    name: str, parameters: Iterable[tuple[str, nn.Parameter]], rate: float, weight_decay: float
) -> Optimizers:
    """`adamw`, or `muon` for the matrices with AdamW for the rest; norms and other vectors are not decayed.

    Embeddings and output heads are lists of vectors and count as such. `parameters` come with their names.

    Muon's step does not depend on the size of the gradient, so neither the scale of an objective nor the clip
    changes it; small drafters learn several times faster with it.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for title, parameter in parameters:
        listed = parameter.ndim < 2 or (
            name == "muon" and (parameter.ndim > 2 or "embed" in title or "lm_head" in title)
        )
        (vectors if listed else matrices).append(parameter)
    if name == "muon":
        muon = torch.optim.Muon(matrices, lr=rate, momentum=0.95, weight_decay=weight_decay)
        adamw = torch.optim.AdamW(vectors, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        return Optimizers([muon, adamw], [1.0, MUON_VECTOR_RATE])
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return Optimizers([torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)], [1.0])


def learning_rate_at(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then a cosine down to zero; `step` is 0-based."""
    warmup = max(1, round(warmup_ratio * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
