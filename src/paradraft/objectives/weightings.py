"""Position weights over a block of K draft positions.

Every function takes and returns `[..., K]`; `valid` is boolean. Weights are detached and zero where invalid.
Invalid positions count as certain (s = 1) inside products and are left out of sums over later positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def uniform(valid: Tensor) -> Tensor:
    """w_k = 1."""
    return valid.float()


def decay(valid: Tensor, gamma: float) -> Tensor:
    """w_k = exp(-(k-1)/gamma): DFlash's fixed decay (arXiv 2602.06036)."""
    steps = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
    return torch.exp(-steps / gamma) * valid


def head(valid: Tensor, base: float) -> Tensor:
    """w_k = base^(k-1): head-dependent weights in the manner of Medusa (arXiv 2401.10774)."""
    steps = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
    return base**steps * valid


def _survival(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """P_k = prod_{j<=k} s_j with s = (1 - alpha) q + alpha: the chance that the block is accepted up to k."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], not {alpha}")
    smoothed = (1 - alpha) * confidence.detach().float() + alpha
    return torch.where(valid, smoothed, 1.0).cumprod(-1)


def _sum_from(values: Tensor, valid: Tensor) -> Tensor:
    """sum_{k>=i} of the valid `values`."""
    return (values * valid).flip(-1).cumsum(-1).flip(-1)


def dpace(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """w_i = sum_{k>=i} prod_{j<=k} s_j: position i's share in the expected accepted length (arXiv 2605.18810).

    `confidence` is the drafter's probability of the label. Never divide by the sum of these weights: their size
    is the signal.
    """
    return _sum_from(_survival(confidence, valid, alpha), valid) * valid


def dpace_prefix(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """Ablation, cumulative confidence alone: w_i = prod_{j<=i} s_j."""
    return _survival(confidence, valid, alpha) * valid


def dpace_continuation(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """Ablation, continuation value alone: w_i = sum_{k>=i} prod_{i<j<=k} s_j.

    Summed backwards, w_i = 1 + s_{i+1} w_{i+1}, rather than as D-PACE over the prefix, which underflows.
    """
    survival_inputs = torch.where(valid, (1 - alpha) * confidence.detach().float() + alpha, 1.0)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], not {alpha}")
    weights = torch.zeros_like(survival_inputs)
    later = torch.zeros_like(survival_inputs[..., 0])
    for i in reversed(range(valid.shape[-1])):
        here = valid[..., i].float() + later
        weights[..., i] = here
        later = survival_inputs[..., i] * here
    return weights * valid


def cat(gold_confidence: Tensor, valid: Tensor) -> Tensor:
    """w_k = prod_{j<k} p_j: the chance that the target itself would keep all that comes before (arXiv 2605.08632).

    `gold_confidence` is the target's probability of each label; w_1 = 1. Unlike D-PACE's, these weights are fixed
    for a text: training does not move them.
    """
    before = torch.where(valid, gold_confidence.detach().float(), 1.0).cumprod(-1)
    return torch.cat((torch.ones_like(before[..., :1]), before[..., :-1]), dim=-1) * valid


@dataclass(frozen=True)
class WeightingParameters:
    """The numbers that weightings need; each uses its own."""

    alpha: float = 0.5
    gamma: float = 4.0
    base: float = 0.8


def needed(gold: Tensor | None) -> Tensor:
    if gold is None:
        raise ValueError("this weighting needs the target's probabilities of the labels")
    return gold


# (drafter's confidence in the labels, the target's or None, valid, parameters) -> weights, all [..., K]
Weighting = Callable[[Tensor, Tensor | None, Tensor, WeightingParameters], Tensor]

WEIGHTINGS: dict[str, Weighting] = {
    "uniform": lambda q, p, valid, c: uniform(valid),
    "decay": lambda q, p, valid, c: decay(valid, c.gamma),
    "head": lambda q, p, valid, c: head(valid, c.base),
    "dpace": lambda q, p, valid, c: dpace(q, valid, c.alpha),
    "dpace_prefix": lambda q, p, valid, c: dpace_prefix(q, valid, c.alpha),
    "dpace_continuation": lambda q, p, valid, c: dpace_continuation(q, valid, c.alpha),
    "cat": lambda q, p, valid, c: cat(needed(p), valid),
}
