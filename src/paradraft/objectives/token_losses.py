"""Losses of single tokens, pure functions on log-probabilities [M, V], one number a token, [M].

`teacher` are the target's log-probabilities [M, V] at the same places; cross entropy alone does without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossParameters:
    """Weights of the two terms of `ce_kd`; PARD-2's published ones (arXiv 2605.08632)."""

    ce: float = 0.1
    kd: float = 1.0


def label_log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """log q(label): log-probabilities [..., V] gathered at labels [...]."""
    return log_probs.gather(-1, labels[..., None]).squeeze(-1)


def cross_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-log q(label) in nats."""
    return -label_log_prob(log_probs, labels)


def forward_kl(log_probs: Tensor, teacher: Tensor) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q), target p against drafter q."""
    return (teacher.exp() * (teacher - log_probs)).sum(-1)


def reverse_kl(log_probs: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p)."""
    return (log_probs.exp() * (log_probs - teacher)).sum(-1)


def total_variation(log_probs: Tensor, teacher: Tensor) -> Tensor:
    """1 - sum_v min(p, q): the chance that speculative sampling rejects the token (arXiv 2211.17192)."""
    return 0.5 * (log_probs.exp() - teacher.exp()).abs().sum(-1)


def needed(teacher: Tensor | None) -> Tensor:
    if teacher is None:
        raise ValueError("this token loss needs the target's logits")
    return teacher


TokenLoss = Callable[[Tensor, Tensor, Tensor | None, LossParameters], Tensor]

TOKEN_LOSSES: dict[str, TokenLoss] = {
    "ce": lambda q, labels, teacher, c: cross_entropy(q, labels),
    "kl": lambda q, labels, teacher, c: forward_kl(q, needed(teacher)),
    "reverse_kl": lambda q, labels, teacher, c: reverse_kl(q, needed(teacher)),
    "tv": lambda q, labels, teacher, c: total_variation(q, needed(teacher)),
    "ce_kd": lambda q, labels, teacher, c: c.ce * cross_entropy(q, labels) + c.kd * forward_kl(q, needed(teacher)),
}


def token_terms(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    teacher_rows: Tensor | None,
    token_loss: str,
    parameters: LossParameters,
) -> tuple[Tensor, Tensor, Tensor]:
    """All that runs over the whole vocabulary: losses, log-probabilities of the labels (detached), most likely tokens.

    logits [M, V] and labels [M]; the target's logits `teacher` [U, V] in any dtype, row `teacher_rows` [M] for each.
    """
    log_probs = logits.float().log_softmax(-1)
    target = None if teacher is None else teacher.float().log_softmax(-1)[teacher_rows]
    losses = TOKEN_LOSSES[token_loss](log_probs, labels, target, parameters)
    return losses, label_log_prob(log_probs.detach(), labels), log_probs.detach().argmax(-1)


@cache
def compiled_token_terms() -> Any:
    """`token_terms` fused by torch.compile; shapes are dynamic, since every chunk has its own number of tokens."""
    return torch.compile(token_terms, dynamic=True)
