"""Losses of single tokens, pure functions on log-probabilities [M, V], one number a token, [M].

`teacher` are the target's log-probabilities [M, V] at the same places, which add up to 1; only cross entropy does not
need them.
`inside` [M]: with a reduced draft vocabulary the logarithm of the target's probability of all its tokens. Distillation
leaves it out and learns the target's distribution within the vocabulary; what is the chance of acceptance counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .parameters import Parameter


@dataclass(frozen=True)
class TokenLoss:
    """loss: (log_probs, labels, teacher or None, inside or None, **parameters) -> [M].

    needs_teacher: the target's distributions.
    """

    loss: Callable[..., Tensor]
    needs_teacher: bool = True
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def label_log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """log q(label): log-probabilities [..., V] gathered at labels [...]."""
    return log_probs.gather(-1, labels[..., None]).squeeze(-1)


def cross_entropy(
    log_probs: Tensor, labels: Tensor, teacher: Tensor | None = None, inside: Tensor | None = None
) -> Tensor:
    """-log q(label) in nats."""
    return -label_log_prob(log_probs, labels)


def forward_kl(log_probs: Tensor, labels: Tensor, teacher: Tensor, inside: Tensor | None = None) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q), target p against drafter q."""
    return (teacher.exp() * (teacher - log_probs)).sum(-1)


def reverse_kl(log_probs: Tensor, labels: Tensor, teacher: Tensor, inside: Tensor | None = None) -> Tensor:
    """KL(q || p)."""
    return (log_probs.exp() * (log_probs - teacher)).sum(-1)


def total_variation(log_probs: Tensor, labels: Tensor, teacher: Tensor, inside: Tensor | None = None) -> Tensor:
    """1 - sum_v min(p, q): the chance that speculative sampling rejects the token (arXiv 2211.17192)."""
    return 1 - log_overlap(log_probs, teacher, inside).exp()


def ce_and_kl(
    log_probs: Tensor,
    labels: Tensor,
    teacher: Tensor,
    inside: Tensor | None = None,
    *,
    ce_weight: float,
    kd_weight: float,
) -> Tensor:
    """ce_weight * CE + kd_weight * KL(p || q), PARD-2's loss (arXiv 2605.08632)."""
    return ce_weight * cross_entropy(log_probs, labels) + kd_weight * forward_kl(log_probs, labels, teacher)


def ce_and_l1(
    log_probs: Tensor,
    labels: Tensor,
    teacher: Tensor,
    inside: Tensor | None = None,
    *,
    ce_weight: float,
    l1_weight: float,
) -> Tensor:
    """ce_weight * CE + l1_weight * sum_v |q - p|, DSpark's loss (arXiv 2607.05147); the L1 distance is 2 `tv`."""
    far = 2 * total_variation(log_probs, labels, teacher, inside)
    return ce_weight * cross_entropy(log_probs, labels) + l1_weight * far


def log_overlap(log_probs: Tensor, teacher: Tensor, inside: Tensor | None = None) -> Tensor:
    """log sum_v min(p, q): of the chance that speculative sampling accepts a token drawn from q (arXiv 2211.17192)."""
    if inside is not None:
        teacher = teacher + inside[..., None]
    return torch.minimum(log_probs, teacher).logsumexp(-1)


def lk_alpha(log_probs: Tensor, labels: Tensor, teacher: Tensor, inside: Tensor | None = None) -> Tensor:
    """-log sum_v min(p, q): the acceptance rate as a likelihood (LK losses, arXiv 2602.23881).

    For a p that is sure of the label it is the cross entropy.
    """
    return -log_overlap(log_probs, teacher, inside)


def lk_lambda(
    log_probs: Tensor,
    labels: Tensor,
    teacher: Tensor,
    inside: Tensor | None = None,
    *,
    lk_scale: float,
    lk_decay: float,
) -> Tensor:
    """l KL(p || q) + (1 - l)(1 - o), where o = sum_v min(p, q) and l = lk_scale exp(-lk_decay o) (arXiv 2602.23881).

    No gradient flows through l: distillation where little is accepted, acceptance itself where much is.
    """
    accepted = log_overlap(log_probs, teacher, inside).exp()
    share = lk_scale * torch.exp(-lk_decay * accepted.detach())
    return share * forward_kl(log_probs, labels, teacher) + (1 - share) * (1 - accepted)


CE_WEIGHT = {"ce_weight": Parameter(0.1, "ce_kd, ce_l1: of the cross entropy", zero=True)}
WITH_KD = {**CE_WEIGHT, "kd_weight": Parameter(1.0, "ce_kd: of KL(target || drafter)", zero=True)}
WITH_L1 = {**CE_WEIGHT, "l1_weight": Parameter(0.9, "ce_l1: of the L1 distance, twice the total variation", zero=True)}
LK = {
    "lk_scale": Parameter(1.0, "lk_lambda: share of KL(target || drafter) where nothing would be accepted", most=1),
    "lk_decay": Parameter(3.0, "lk_lambda: how fast that share falls as more would be accepted", zero=True),
}

TOKEN_LOSSES: dict[str, TokenLoss] = {
    "ce": TokenLoss(cross_entropy, needs_teacher=False),
    "kl": TokenLoss(forward_kl),
    "reverse_kl": TokenLoss(reverse_kl),
    "tv": TokenLoss(total_variation),
    "ce_kd": TokenLoss(ce_and_kl, parameters=WITH_KD),
    "ce_l1": TokenLoss(ce_and_l1, parameters=WITH_L1),
    "lk_alpha": TokenLoss(lk_alpha),
    "lk_lambda": TokenLoss(lk_lambda, parameters=LK),
}


class Opinion(NamedTuple):
    """The target's logits [U, V] in any dtype, and each query's row among them, [M].

    inside [U]: with a reduced draft vocabulary, whose logits these are, the target's probability of all its tokens.
    """

    logits: Tensor
    rows: Tensor
    inside: Tensor | None = None


def token_terms(
    logits: Tensor,
    labels: Tensor,
    opinion: Opinion | None,
    with_overlap: bool,
    token_loss: str,
    parameters: Mapping[str, float],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Losses, log-probabilities of the labels, most likely tokens, overlaps sum_v min(p, q); [M] each.

    All but the losses are detached. The overlaps (None unless asked for) are with the target's whole distribution.
    logits [M, V], labels [M].
    """
    log_probs = logits.float().log_softmax(-1)
    target = inside = None
    if opinion is not None:
        target = opinion.logits.float().log_softmax(-1)[opinion.rows]
        inside = None if opinion.inside is None else opinion.inside.log()[opinion.rows]
    record = TOKEN_LOSSES[token_loss]
    if target is None and (record.needs_teacher or with_overlap):
        raise ValueError(f"the token loss {token_loss} or what it is weighted with needs the target's logits")
    losses = record.loss(log_probs, labels, target, inside, **parameters)
    fixed, overlap = log_probs.detach(), None
    if with_overlap and target is not None:
        overlap = log_overlap(fixed, target, inside).exp()
    return losses, label_log_prob(fixed, labels), fixed.argmax(-1), overlap


@cache
def compiled_token_terms() -> Any:
    """`token_terms` fused by torch.compile; shapes are dynamic, since every chunk has its own number of tokens."""
    return torch.compile(token_terms, dynamic=True)
