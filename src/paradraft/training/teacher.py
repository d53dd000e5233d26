"""What a training step needs of the target: features, and its distributions where the objective asks for them.

They come from a forward of the target in every step, or from files of `paradraft data features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

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


def blocks_of(grid: Grid) -> Blocks:
    """The grid as the objective takes it, without the target's opinion."""
    return Blocks(grid.labels, grid.valid, grid.rows, anchors=grid.anchors, starts=grid.answer_starts)


@torch.no_grad()
def read_teacher(
    target: Target, grid: Grid, feature_layers: Sequence[int], objective: Objective, stored: Tensor | None = None
) -> tuple[Tensor, Blocks]:
    """Features [B, S, F] and the blocks for the objective, from at most one forward of the target.

    `stored` [B, S, layers * H]: the outputs of `stored_layers` as a store has them, in place of that forward.
    """
    ids, documents = grid.batch.input_ids, grid.batch.document_ids
    if stored is not None:
        features, hidden = stored.tensor_split([len(feature_layers) * target.hidden_size], dim=-1)
    elif objective.needs_distribution:
        hidden, features = target.read(ids, documents, feature_layers)
    else:
        features = hidden = target.features(ids, documents, feature_layers)
    if not objective.needs_distribution:
        return features, blocks_of(grid)
    return features, with_opinion(target, grid, hidden, objective)


def with_opinion(target: Target, grid: Grid, hidden: Tensor, objective: Objective) -> Blocks:
    """The grid's blocks with what the objective needs of the target's final-normed hidden states [B, S, H].

    The target's distribution at a position is computed once, however many queries ask for it; where all of them
    together are too large to keep, the chunked head computes them chunk by chunk. With CAT weights and plain cross
    entropy only the probabilities of the labels are kept.
    """
    input_ids = grid.batch.input_ids
    length = input_ids.shape[1]
    steps = torch.arange(grid.labels.shape[1], device=grid.labels.device)
    asked = (grid.anchors[:, None] + steps).clamp(max=length - 1) + grid.rows[:, None] * length  # predicts the label
    wanted = torch.zeros(input_ids.numel(), dtype=torch.bool, device=asked.device)
    wanted[asked[grid.valid]] = True
    number = (wanted.long().cumsum(0) - 1).clamp(min=0)  # of a wanted position among the wanted ones
    at_wanted = hidden.flatten(0, 1)[wanted]
    gold = teacher = teacher_head = None
    if objective.needs_teacher:
        few = len(at_wanted) * target.vocabulary_size <= ENTRIES_PER_CHUNK
        teacher, teacher_head = (target.head(at_wanted), None) if few else (at_wanted, partial(own_precision, target))
    if objective.needs_gold:
        following = input_ids.roll(-1, dims=1).flatten()[wanted]
        logits = teacher if teacher_head is None else None
        gold = gold_probabilities(target, at_wanted, following, logits)[number[asked]]
    rows = number[asked]
    return replace(blocks_of(grid), gold=gold, teacher=teacher, teacher_rows=rows, teacher_head=teacher_head)


def own_precision(target: Target, hidden: Tensor) -> Tensor:
    """The target's logits in its own number format: the head is called while the drafter's run in reduced precision."""
    with torch.autocast(target.device.type, enabled=False):
        return target.head(hidden)


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
    layers = stored_layers(target, drafter.feature_layers, objective)
    if not layers:
        raise UserError("data.features would save nothing: nothing is read of the target; set data.features=null")
    store = FeatureStore(directory)
    if objective.needs_distribution and store.identity.dtype != "bfloat16":
        raise UserError(
            f"this run reads the target's distribution, for which the {store.identity.dtype} numbers in {directory} "
            "are too coarse; write them anew with --storage bfloat16"
        )
    identity = identify(config.target.model)
    store.check(store_identity(config.data, target, identity, data, layers, store.identity.dtype))
    return store


def stored_layers(target: Target, feature_layers: Sequence[int], objective: Objective) -> tuple[int, ...]:
    """Those that a run reads from a store: its feature layers, and the final-normed states for a distribution."""
    return (*feature_layers, *([len(target.layers)] if objective.needs_distribution else []))
