"""Position weights over a block of K draft positions.

A weighting maps confidences [..., K] (probabilities of the labels) and `valid` [..., K], boolean, to weights [..., K],
without a gradient and zero where invalid. Inside products an invalid position counts as 1 (s = 1); sums over later
positions leave it out. A new weighting is one function and one entry of WEIGHTINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .parameters import Parameter


@dataclass(frozen=True)
class Weighting:
    """weights: (confidence, valid, **parameters) -> [..., K].

    confidence: what it is given: the drafter's or the target's probabilities of the labels, or their overlaps
    sum_v min(p, q), the chance that a sampled draft is accepted. denominator: what the summed loss is divided by unless
    the run says otherwise (see objective.DENOMINATORS).
    """

    weights: Callable[..., Tensor]
    confidence: Literal["drafter", "target", "overlap"] = "drafter"
    denominator: str = "anchors"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def uniform(confidence: Tensor, valid: Tensor) -> Tensor:
    """w_k = 1."""
    return valid.float()


def decay(confidence: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """w_k = exp(-(k-1)/gamma): DFlash's fixed decay (arXiv 2602.06036)."""
    steps = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
    return torch.exp(-steps / gamma) * valid


def geometric(confidence: Tensor, valid: Tensor, base: float) -> Tensor:
    """w_k = base^(k-1): the head weights of Medusa (arXiv 2401.10774)."""
    steps = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
    return base**steps * valid


def _smoothed(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """s = (1 - alpha) q + alpha, and 1 where invalid."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], not {alpha}")
    return torch.where(valid, (1 - alpha) * confidence.detach().float() + alpha, 1.0)


def _sum_from(values: Tensor, valid: Tensor) -> Tensor:
    """sum_{k>=i} of the valid `values`."""
    return (values * valid).flip(-1).cumsum(-1).flip(-1)


def dpace(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """w_i = sum_{k>=i} prod_{j<=k} s_j: position i's share in the expected accepted length (arXiv 2605.18810).

    Do not divide by the sum of these weights: their size says how much a block can gain.
    """
    return _sum_from(_smoothed(confidence, valid, alpha).cumprod(-1), valid) * valid


def dpace_normalized(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """D-PACE divided by its sum over the block: only the shape of its weights, not their size."""
    weights = dpace(confidence, valid, alpha)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)


def rounds(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """w_i = -d/d(log s_i) of 1 / (1 + E[L]) = D-PACE / (1 + E[L])^2: rounds a token, if all text is as this block is.

    E[L] is the block's expected accepted length. Where it is already long, one more token saves fewer rounds.
    """
    survival = _smoothed(confidence, valid, alpha).cumprod(-1) * valid
    return dpace(confidence, valid, alpha) / (1 + survival.sum(-1, keepdim=True)) ** 2


def dpace_prefix(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """D-PACE's ablation "cumulative confidence": w_i = prod_{j<=i} s_j."""
    return _smoothed(confidence, valid, alpha).cumprod(-1) * valid


def dpace_continuation(confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """D-PACE's ablation "continuation value": w_i = sum_{k>=i} prod_{i<j<=k} s_j.

    Summed backwards, w_i = 1 + s_{i+1} w_{i+1}, rather than as D-PACE over the prefix, which underflows.
    """
    smoothed = _smoothed(confidence, valid, alpha)
    weights = torch.zeros_like(smoothed)
    later = torch.zeros_like(smoothed[..., 0])
    for i in reversed(range(valid.shape[-1])):
        here = valid[..., i].float() + later
        weights[..., i] = here
        later = smoothed[..., i] * here
    return weights * valid


def cat(confidence: Tensor, valid: Tensor) -> Tensor:
    """w_k = prod_{j<k} p_j: the target's own probability of all labels before position k (arXiv 2605.08632).

    The confidence is the target's; w_1 = 1. Unlike D-PACE's, these weights do not change as the drafter learns.
    """
    before = torch.where(valid, confidence.detach().float(), 1.0).cumprod(-1)
    return torch.cat((torch.ones_like(before[..., :1]), before[..., :-1]), dim=-1) * valid


def path(confidence: Tensor, valid: Tensor) -> Tensor:
    """w_i = sum_{k>=i} prod_{j<=k} o_j: D-PACE without smoothing.

    Of overlaps o and the token loss -log o its gradient is that of the path loss -sum_i prod_{j<=i} o_j: minus the
    expected number of accepted tokens, differentiated through every factor.
    """
    survival = torch.where(valid, confidence.detach().float(), 1.0).cumprod(-1)
    return _sum_from(survival, valid) * valid


ALPHA = {"alpha": Parameter(0.5, "D-PACE's smoothing of the confidence", most=1)}
BASE = {"base": Parameter(0.8, "w = base^(k-1)", most=1)}
GAMMA = {"gamma": Parameter(7.0, "w = exp(-(k-1)/gamma); published: 7, 5, 4 for blocks of 16, 10, 8")}

WEIGHTINGS: dict[str, Weighting] = {
    "uniform": Weighting(uniform),
    "decay": Weighting(decay, denominator="weights", parameters=GAMMA),
    "geometric": Weighting(geometric, denominator="weights", parameters=BASE),
    "dpace": Weighting(dpace, parameters=ALPHA),
    "dpace_prefix": Weighting(dpace_prefix, parameters=ALPHA),
    "dpace_continuation": Weighting(dpace_continuation, parameters=ALPHA),
    "dpace_normalized": Weighting(dpace_normalized, parameters=ALPHA),
    "rounds": Weighting(rounds, parameters=ALPHA),
    "dpace_overlap": Weighting(dpace, confidence="overlap", parameters=ALPHA),
    "path": Weighting(path, confidence="overlap"),
    "cat": Weighting(cat, confidence="target", denominator="weights"),
}
