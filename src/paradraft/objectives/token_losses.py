"""Losses of single tokens, pure functions on log-probabilities [M, V], one number a token, [M].

`teacher` are the target's log-probabilities [M, V] at the same places; only cross entropy does not need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .parameters import Parameter


@dataclass(frozen=True)
class TokenLoss:
    """loss: (log_probs, labels, teacher or None, **parameters) -> [M]. needs_teacher: the target's distributions."""

    loss: Callable[..., Tensor]
    needs_teacher: bool = True
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def label_log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """log q(label): log-probabilities [..., V] gathered at labels [...]."""
    return log_probs.gather(-1, labels[..., None]).squeeze(-1)


def cross_entropy(log_probs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
    """-log q(label) in nats."""
    return -label_log_prob(log_probs, labels)


def forward_kl(log_probs: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q), target p against drafter q."""
    return (teacher.exp() * (teacher - log_probs)).sum(-1)


def reverse_kl(log_probs: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p)."""
    return (log_probs.exp() * (log_probs - teacher)).sum(-1)


def total_variation(log_probs: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
    """1 - sum_v min(p, q): the chance that speculative sampling rejects the token (arXiv 2211.17192)."""
    return 0.5 * (log_probs.exp() - teacher.exp()).abs().sum(-1)


def ce_and_kl(log_probs: Tensor, labels: Tensor, teacher: Tensor, ce_weight: float, kd_weight: float) -> Tensor:
    """ce_weight * CE + kd_weight * KL(p || q), PARD-2's loss (arXiv 2605.08632)."""
    return ce_weight * cross_entropy(log_probs, labels) + kd_weight * forward_kl(log_probs, labels, teacher)


BOTH = {
    "ce_weight": Parameter(0.1, "ce_kd: of the cross entropy", zero=True),
    "kd_weight": Parameter(1.0, "ce_kd: of KL(target || drafter)", zero=True),
}

TOKEN_LOSSES: dict[str, TokenLoss] = {
    "ce": TokenLoss(cross_entropy, needs_teacher=False),
    "kl": TokenLoss(forward_kl),
    "reverse_kl": TokenLoss(reverse_kl),
    "tv": TokenLoss(total_variation),
    "ce_kd": TokenLoss(ce_and_kl, parameters=BOTH),
}


def token_terms(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    teacher_rows: Tensor | None,
    token_loss: str,
    parameters: Mapping[str, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, log-probabilities of the labels (detached) and most likely tokens, [M] each.

    logits [M, V], labels [M]; `teacher` [U, V]: the target's logits in any dtype, `teacher_rows` [M]: each query's row.
    """
    log_probs = logits.float().log_softmax(-1)
    target = None if teacher is None else teacher.float().log_softmax(-1)[teacher_rows]
    record = TOKEN_LOSSES[token_loss]
    if target is None and record.needs_teacher:
        raise ValueError(f"the token loss {token_loss} needs the target's logits")
    losses = record.loss(log_probs, labels, target, **parameters)
    return losses, label_log_prob(log_probs.detach(), labels), log_probs.detach().argmax(-1)


@cache
def compiled_token_terms() -> Any:
    """`token_terms` fused by torch.compile; shapes are dynamic, since every chunk has its own number of tokens."""
    return torch.compile(token_terms, dynamic=True)
