"""Losses of single tokens. All take logits `[..., vocabulary]` and return one number a position, `[...]`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

TokenLoss = Callable[[Tensor, Tensor], Tensor]


def label_log_prob(log_probs: Tensor, labels: Tensor) -> Tensor:
    """log q(label): log-probabilities [..., V] gathered at labels [...]."""
    return log_probs.gather(-1, labels[..., None]).squeeze(-1)


def cross_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-log q(label) in nats, from the drafter's log-probabilities [..., V]."""
    return -label_log_prob(log_probs, labels)


TOKEN_LOSSES: dict[str, TokenLoss] = {"ce": cross_entropy}
