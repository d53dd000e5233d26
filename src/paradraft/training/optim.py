"""The optimisers and their schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MUON_VECTOR_RATE = 0.2  # of Muon's rate, for the vectors (embeddings among them) that AdamW trains beside it


class Float32Muon(torch.optim.Muon):
    """torch's Muon with the orthogonalisation in float32, for CPUs.

    torch computes it in bfloat16. A CPU without such instructions does that hundreds of times slower, and one that has
    AVX-512's may still be slower than in float32. State and settings are the same.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = orthogonalized(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float) -> Tensor:
    """The matrix with all singular values near 1, by Newton-Schulz iterations (Muon, K. Jordan 2024)."""
    a, b, c = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Optimizers:
    """One or two torch optimisers driven as one; `scales` are their learning rates relative to the schedule's."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], scales: list[float]) -> None:
        self.optimizers, self.scales = optimizers, scales

    @property
    def state_bytes(self) -> int:
        """Of the state after a step, in float32: two moments of each weight with AdamW, one momentum with Muon."""
        kept = [(2 - isinstance(o, torch.optim.Muon), g["params"]) for o in self.optimizers for g in o.param_groups]
        return sum(4 * count * weight.numel() for count, weights in kept for weight in weights)

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
        """What was gathered so far. Rate and weight decay stay those of the run that goes on."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            decays = [group.get("weight_decay") for group in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def make_optimizer(
    name: str,
    parameters: Iterable[tuple[str, nn.Parameter]],
    rate: float,
    weight_decay: float,
    lists: Sequence[str] = ("embed", "lm_head"),
) -> Optimizers:
    """`adamw`, or `muon` for the matrices with AdamW for the rest; norms and other vectors are not decayed.

    Embeddings and output heads are lists of vectors and count as such: their names contain one of `lists`.
    `parameters` come with their names.

    Muon's step does not depend on the size of the gradient, so neither the scale of an objective nor the clip
    changes it; small drafters learn several times faster with it.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for title, parameter in parameters:
        if not parameter.requires_grad:
            continue
        listed = parameter.ndim != 2 or any(part in title for part in lists)
        (vectors if listed else matrices).append(parameter)
    if name == "muon":
        kind = Float32Muon if matrices[0].device.type == "cpu" else torch.optim.Muon
        muon = kind(matrices, lr=rate, momentum=0.95, weight_decay=weight_decay)
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
