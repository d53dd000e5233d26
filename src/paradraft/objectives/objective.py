"""One objective = token loss x weighting x denominator. Losses come back as sums; division happens once, later.

The gradient of a global batch is (sum of the micro-batches' gradients of `loss`) / (sum of their `denominator`):
the same however the batch is split over micro-batches or ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .token_losses import TOKEN_LOSSES, label_log_prob
from .weightings import WEIGHTINGS, WeightingParameters

# anchors    mean over a sequence's valid anchors, then mean over sequences (default for D-PACE)
# tokens     mean over valid positions
# weights    weighted mean over positions (default for decay)
# sequences  sum within a sequence, mean over sequences (as the published D-PACE code)
DENOMINATORS = ("anchors", "tokens", "weights", "sequences")


@dataclass
class ObjectiveSums:
    """Sums over the blocks seen so far. `loss` carries the gradient; all else is detached.

    The `[K]` sums are per draft position: `count` of valid labels, `weight`, `cross_entropy`, `correct` (argmax
    equals the label) and `reached` (and so do all before it).
    """

    loss: Tensor
    denominator: Tensor
    count: Tensor
    weight: Tensor
    cross_entropy: Tensor
    correct: Tensor
    reached: Tensor

    def add(self, other: ObjectiveSums) -> ObjectiveSums:
        return ObjectiveSums(*(mine + theirs for mine, theirs in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())

    def detached(self) -> ObjectiveSums:
        return ObjectiveSums(*(value.detach() for value in self.values()))


@dataclass(frozen=True)
class Objective:
    """`sums` maps logits [N, K, V], labels and valid [N, K] and the block's source row [N] to ObjectiveSums."""

    token_loss: str = "ce"
    weighting: str = "dpace"
    denominator: str = "anchors"
    parameters: WeightingParameters = field(default_factory=WeightingParameters)

    def __post_init__(self) -> None:
        for name, known in (
            (self.token_loss, TOKEN_LOSSES),
            (self.weighting, WEIGHTINGS),
            (self.denominator, DENOMINATORS),
        ):
            if name not in known:
                raise ValueError(f"{name!r} is not one of {', '.join(known)}")

    def block_scale(self, valid: Tensor, rows: Tensor) -> Tensor:
        """What each block [N] is multiplied with before summing: 1 / anchors of its sequence, or 1.

        All blocks of one sequence must be in one call; chunks then share the result.
        """
        return self.sequence_share(valid, rows) if self.denominator == "anchors" else valid.any(-1).float()

    def sequence_share(self, valid: Tensor, rows: Tensor) -> Tensor:
        """[N] numbers that add up to 1 over the blocks of every sequence that has a valid one."""
        present = valid.any(-1).float()
        anchors = torch.zeros(int(rows.max()) + 1 if len(rows) else 0, device=valid.device)
        return present / anchors.index_add(0, rows, present)[rows].clamp(min=1)

    def sums(self, logits: Tensor, labels: Tensor, valid: Tensor, scale: Tensor, share: Tensor) -> ObjectiveSums:
        """`scale` and `share` [N] are `block_scale` and `sequence_share` of these blocks."""
        log_probs = logits.float().log_softmax(-1)
        safe_labels = labels.clamp(min=0)
        losses = TOKEN_LOSSES[self.token_loss](log_probs, safe_labels)
        label_log_probs = label_log_prob(log_probs.detach(), safe_labels)
        weights = WEIGHTINGS[self.weighting](label_log_probs.exp(), valid, self.parameters)
        loss = torch.where(valid, weights * losses, 0.0).sum(-1)
        denominators = {
            "anchors": share.sum(),
            "sequences": share.sum(),
            "tokens": valid.sum().float(),
            "weights": weights.sum(),
        }
        hit = (log_probs.detach().argmax(-1) == labels) & valid
        return ObjectiveSums(
            loss=(loss * scale).sum(),
            denominator=denominators[self.denominator],
            count=valid.float().sum(0),
            weight=weights.sum(0),
            cross_entropy=torch.where(valid, -label_log_probs, 0.0).sum(0),
            correct=hit.float().sum(0),
            reached=hit.long().cumprod(-1).float().sum(0),
        )
