"""What a training step needs of the target: features, and its opinion of the labels where the objective asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..drafters import Grid
from ..models import Target
from ..objectives import Blocks, Objective
from ..objectives.chunked_head import ENTRIES_PER_CHUNK, chunk_positions
from ..objectives.token_losses import label_log_prob


@torch.no_grad()
def read_target(
    target: Target, grid: Grid, feature_layers: Sequence[int], objective: Objective
) -> tuple[Tensor, Blocks]:
    """Features [B, S, F] and the blocks, from one forward of the target, or none where nothing of it is needed.

    Its distribution at a position is computed once, however many queries ask for it, unless all of them together
    are too large to keep; with CAT weights and plain cross entropy only the labels' probabilities are kept.
    """
    batch = grid.batch
    blocks = Blocks(grid.labels, grid.valid, grid.rows)
    if not (objective.needs_gold or objective.needs_teacher):
        return target.features(batch.input_ids, batch.document_ids, feature_layers), blocks
    hidden, features = target.read(batch.input_ids, batch.document_ids, feature_layers)
    length = batch.input_ids.shape[1]
    steps = torch.arange(grid.labels.shape[1], device=grid.labels.device)
    asked = (grid.anchors[:, None] + steps).clamp(max=length - 1) + grid.rows[:, None] * length  # predicts the label
    wanted = torch.zeros(batch.input_ids.numel(), dtype=torch.bool, device=asked.device)
    wanted[asked[grid.valid]] = True
    number = (wanted.long().cumsum(0) - 1).clamp(min=0)  # of a wanted position among the wanted ones
    at_wanted = hidden.flatten(0, 1)[wanted]
    gold = teacher = teacher_head = None
    if objective.needs_teacher:
        few = len(at_wanted) * target.vocabulary_size <= ENTRIES_PER_CHUNK
        teacher, teacher_head = (target.head(at_wanted), None) if few else (at_wanted, target.head)
    if objective.needs_gold:
        following = batch.input_ids.roll(-1, dims=1).flatten()[wanted]
        logits = teacher if teacher_head is None else None
        gold = gold_probabilities(target, at_wanted, following, logits)[number[asked]]
    return features, Blocks(grid.labels, grid.valid, grid.rows, gold, teacher, number[asked], teacher_head)


def gold_probabilities(target: Target, hidden: Tensor, labels: Tensor, logits: Tensor | None) -> Tensor:
    """p(label) [P] after the hidden states [P, H]; `logits` [P, V] if they are there, else made chunk by chunk."""
    parts, size = [], chunk_positions(target.vocabulary_size)
    for start in range(0, max(1, len(labels)), size):
        part = slice(start, start + size)
        chunk = target.head(hidden[part]) if logits is None else logits[part]
        parts.append(label_log_prob(chunk.float().log_softmax(-1), labels[part]).exp())
    return torch.cat(parts)
