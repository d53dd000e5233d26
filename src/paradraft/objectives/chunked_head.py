"""The language-model head and the objective in chunks of whole blocks, recomputed in the backward pass.

Logits of a full batch never exist at once: at Qwen3-4B's sizes (512 anchors x 15 positions x 151,936 entries)
they would be 4.6 GiB in float32. Weights depend on one block alone, so chunks of whole blocks are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .objective import Objective, ObjectiveSums

Head = Callable[[Tensor], Tensor]


def unchunked_head(
    hidden: Tensor, labels: Tensor, valid: Tensor, rows: Tensor, head: Head, objective: Objective
) -> ObjectiveSums:
    """The obvious version, kept as the oracle: hidden [N, K, H], labels and valid [N, K], rows [N]."""
    scale, share = objective.block_scale(valid, rows), objective.sequence_share(valid, rows)
    return objective.sums(logits_of(head, hidden), labels, valid, scale, share)


def logits_of(head: Head, hidden: Tensor) -> Tensor:
    """The head on [N, K, H], as one matrix product: a batched one over N is several times slower on a CPU."""
    return head(hidden.reshape(-1, hidden.shape[-1])).unflatten(0, hidden.shape[:2])


def chunked_head(
    hidden: Tensor,
    labels: Tensor,
    valid: Tensor,
    rows: Tensor,
    head: Head,
    objective: Objective,
    positions_per_chunk: int = 4096,
) -> ObjectiveSums:
    """Equal to `unchunked_head` in value and gradient, with the logits of one chunk in memory at a time."""
    scale, share = objective.block_scale(valid, rows), objective.sequence_share(valid, rows)

    def chunk_sums(chunk: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        return objective.sums(logits_of(head, chunk), *targets).values()

    blocks = max(1, positions_per_chunk // max(1, labels.shape[-1]))
    total: ObjectiveSums | None = None
    for start in range(0, max(1, len(hidden)), blocks):
        part = slice(start, start + blocks)
        inputs = (hidden[part], labels[part], valid[part], scale[part], share[part])
        if torch.is_grad_enabled() and hidden.requires_grad and len(hidden) > blocks:  # one chunk: nothing to save
            sums = ObjectiveSums(*checkpoint(chunk_sums, *inputs, use_reentrant=False))
        else:
            sums = ObjectiveSums(*chunk_sums(*inputs))
        total = sums if total is None else total.add(sums)
    assert total is not None
    return total
