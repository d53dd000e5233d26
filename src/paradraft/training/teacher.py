"""What a training step needs of the target: features, and its distributions where the objective asks for them.

They come from a forward of the target in every step, or (features alone) from files of `paradraft data features`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..drafters import Drafter, Grid
from ..errors import UserError
from ..models import Target
from ..objectives import Blocks, Objective
from ..objectives.chunked_head import ENTRIES_PER_CHUNK, chunk_positions
from ..objectives.token_losses import label_log_prob
from ..text.feature_store import FeatureStore, store_identity
from ..text.prepare import Examples
from ..text.provenance import identify
from .config import RunConfig


@torch.no_grad()
def read_teacher(
    target: Target, grid: Grid, feature_layers: Sequence[int], objective: Objective
) -> tuple[Tensor, Blocks]:
    """Features [B, S, F] and the blocks for the objective, from at most one forward of the target.

    The target's distribution at a position is computed once, however many queries ask for it; where all of them
    together are too large to keep, the chunked head computes them chunk by chunk. With CAT weights and plain cross
    entropy only the probabilities of the labels are kept.
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


def open_store(
    config: RunConfig, target: Target, data: Examples, drafter: Drafter, objective: Objective
) -> FeatureStore | None:
    """The files of `data.features`; None where it is not set, and features are computed online.

    Raises UserError where the files were written for another target, other text or other layers.
    """
    directory = config.data.features
    if directory is None:
        return None
    if objective.needs_gold or objective.needs_teacher or not drafter.feature_layers:
        raise UserError(
            "data.features would save nothing: this run reads the target's distribution, or no features at all; set "
            "data.features=null"
        )
    store = FeatureStore(directory)
    identity = identify(config.target.model)
    layers, storage = drafter.feature_layers, store.identity.dtype
    store.check(store_identity(config.data, target, identity, data, layers, storage))
    return store


def read_stored(
    store: FeatureStore, target: Target, grid: Grid, feature_layers: Sequence[int], examples: Sequence[int]
) -> tuple[Tensor, Blocks]:
    """The same as `read_teacher` for objectives that need labels only; `examples`: the numbers of the grid's rows."""
    features = store.batch(examples, feature_layers, grid.batch.input_ids.shape[1])
    on_device = features.to(device=target.device, dtype=target.dtype)
    return on_device, Blocks(grid.labels, grid.valid, grid.rows)
