"""The language-model head and the objective, computed in chunks of whole blocks and again in the backward pass.

So the logits of a full batch never exist at once: at Qwen3-4B's sizes (512 anchors x 15 positions x 151,936 entries)
they would be 4.6 GiB in float32. Losses against the target's distribution also need the target's logits, once for each
position, in the target's dtype. What a query gives is a few numbers; weights and sums are made of those of all chunks
together. The head runs only on valid queries, which are few after COD.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .blocks import Blocks, QueryTerms
from .objective import Objective, ObjectiveSums, OwnLoss

Head = Callable[[Tensor], Tensor]

POSITIONS_PER_CHUNK = 4096
# One chunk's logits are alive about four times over in its backward pass (and twice that with a teacher): 2^26
# entries, 441 positions of Qwen3's vocabulary, keep that under 1 GiB.
ENTRIES_PER_CHUNK = 2**26


def no_loss(hidden: Tensor, logits: Tensor, labels: Tensor, overlap: Tensor | None) -> Tensor | None:
    """The own loss of a drafter that has none."""
    return None


def unchunked_head(
    hidden: Tensor, blocks: Blocks, head: Head, objective: Objective, own: OwnLoss = no_loss
) -> ObjectiveSums:
    """The obvious version, kept as the oracle: hidden [N, K, H]."""
    asked, logits = hidden[blocks.valid], head(hidden)[blocks.valid]
    return objective.sums(objective.terms(logits, blocks, partial(own, asked, logits)), blocks)


def chunked_head(
    hidden: Tensor,
    blocks: Blocks,
    head: Head,
    objective: Objective,
    own: OwnLoss = no_loss,
    positions_per_chunk: int | None = None,
) -> ObjectiveSums:
    """Equal to `unchunked_head` in value and gradient, with the logits of one chunk in memory at a time.

    hidden [N, K, H]. Without `positions_per_chunk`, the size of the vocabulary decides, of the draft's and the target's
    the larger one where both make logits.
    """
    vocabulary = vocabulary_of(head, hidden)
    if blocks.teacher_head is not None and blocks.teacher is not None:
        vocabulary = max(vocabulary, vocabulary_of(blocks.teacher_head, blocks.teacher[:, None]))
    parts = whole_blocks(blocks.valid, positions_per_chunk or chunk_positions(vocabulary))

    def chunk_terms(part: slice, chunk: Tensor) -> QueryTerms:
        # One matrix product over the valid queries: a batched one over N is several times slower on a CPU.
        asked = chunk[blocks.valid[part]]
        logits = head(asked)
        return objective.terms(logits, blocks[part], partial(own, asked, logits))

    # With one chunk, recomputing saves no memory.
    again = torch.is_grad_enabled() and hidden.requires_grad and len(parts) > 1
    run = partial(checkpoint, chunk_terms, use_reentrant=False) if again else chunk_terms
    return objective.sums(QueryTerms.joined([run(part, hidden[part]) for part in parts]), blocks)


def whole_blocks(valid: Tensor, positions: int) -> list[slice]:
    """Cut valid [N, K] into runs of blocks with at most `positions` valid queries each, or of one block."""
    counts = valid.sum(-1).tolist()
    parts, start, held = [], 0, 0
    for block, count in enumerate(counts):
        if held + count > positions and block > start:
            parts.append(slice(start, block))
            start, held = block, 0
        held += count
    return [*parts, slice(start, len(counts))]


def vocabulary_of(head: Head, hidden: Tensor) -> int:
    """The number of logits that the head makes, found by running it on zero positions."""
    with torch.no_grad():
        return head(hidden[:0, 0]).shape[-1]


def chunk_positions(vocabulary: int) -> int:
    """How many positions a chunk has."""
    return max(1, min(POSITIONS_PER_CHUNK, ENTRIES_PER_CHUNK // vocabulary))
