"""PARD, the parallel draft language model (arXiv 2504.18583): a causal LM that drafts K tokens in one forward.

Behind the newest token come K - 1 masks (one shared, unused token); the newest token predicts step 1, mask i
predicts step i + 1. Attention is causal: a mask sees the text up to the newest token and the masks before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UserError
from ..models import Target
from ..models.attention import document_positions
from ..models.names import drafter_directory
from .attention import Predicate, attention_mask
from .base import DrafterSection, Proposal, Sampler
from .directory import read_config, unused_token
from .grid import Batch, Grid, anchor_grid, conditional_drop
from .language_model import (
    OWN_TENSORS,
    LanguageModelDrafter,
    LanguageModelSection,
    load_language_model,
    own_settings,
    read_own_tensors,
)
from .language_model_start import starting_model
from .state import DraftState


@dataclass(frozen=True)
class Layout:
    """The M masks of each row that COD kept, padded to the longest row; all [B, M].

    place: index in the flattened grid, anchor * (K - 1) + step - 2; anchor: position of the token that the mask's draft
    follows, -1 in padding; step: 2 for the first mask; present: false in padding.
    """

    place: Tensor
    anchor: Tensor
    step: Tensor
    present: Tensor


def lay_out(grid: Grid) -> Layout:
    """Collect the masks that COD kept: about sum_i max(r^i, r_min) queries for each anchor instead of K."""
    rows, steps = len(grid.batch.input_ids), grid.labels.shape[1]
    kept = grid.valid[:, 1:].reshape(rows, -1)
    most = int(kept.sum(1).max()) if kept.numel() else 0
    order = torch.argsort(kept.long(), dim=1, descending=True, stable=True)[:, :most]
    present = kept.gather(1, order)
    anchors = grid.anchors.view(rows, -1).repeat_interleave(max(1, steps - 1), dim=1)[:, : kept.shape[1]]
    anchor = torch.where(present, anchors.gather(1, order), -1)
    step = torch.where(present, order % max(1, steps - 1) + 2, 2)
    return Layout(order, anchor, step, present)


def pard_predicate(document_ids: Tensor, anchor: Tensor, step: Tensor) -> Predicate:
    """Queries and keys 0..S-1 are the text [B, S], the rest are the masks [B, M].

    A text token sees its document up to itself. A mask sees its document up to its anchor, and the masks of its own
    draft up to itself.
    """
    length = document_ids.shape[1]
    positions = torch.arange(length, device=document_ids.device).expand(document_ids.shape)
    last = torch.cat((positions, anchor), dim=1)  # the last text position that a slot sees
    owner = torch.cat((torch.full_like(positions, -2), anchor), dim=1)
    order = torch.cat((torch.ones_like(positions), step), dim=1)
    documents = torch.cat((document_ids, document_ids.gather(1, anchor.clamp(min=0))), dim=1)

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_text = key < length
        text = (key <= last[row, query]) & (documents[row, key] == documents[row, query])
        draft = (owner[row, key] == owner[row, query]) & (order[row, key] <= order[row, query])
        return torch.where(is_text, text, draft)

    return visible


class ParallelSection(LanguageModelSection):
    """The fields that PARD and PARD-2 share."""

    mask_token: int | None = Field(None, ge=0, description="id of the mask; null finds an unused one")
    cod_ratio: float = Field(0.7, gt=0, le=1, description="step i + 1 is kept for a share ratio^i of the anchors ...")
    cod_least: float = Field(0.1, ge=0, le=1, description="... but at least this")


class PardSection(ParallelSection):
    kind: Literal["pard"] = "pard"


class Pard(LanguageModelDrafter):
    kind = "pard"
    section: type[DrafterSection] = PardSection
    modes: tuple[str, ...] = ("independent",)
    usual_length = 16  # the K of the paper

    def __init__(
        self,
        model: PreTrainedModel,
        target: Target,
        max_draft: int,
        mask_token: int,
        cod_ratio: float = 0.7,
        cod_least: float = 0.1,
        share_embedding: bool = False,
    ) -> None:
        embedding: Any = model.get_input_embeddings()
        size = int(embedding.num_embeddings)
        if not 0 <= mask_token < size:
            raise UserError(f"mask token {mask_token} lies outside the draft model's vocabulary of {size}")
        start = embedding.weight[mask_token].detach().clone()
        super().__init__(model, target, max_draft, share_embedding)
        self.mask_embedding = nn.Parameter(start) if share_embedding else None  # else a row of its own embedding
        self.mask_token, self.cod_ratio, self.cod_least = mask_token, cod_ratio, cod_least

    def embed(self, tokens: Tensor) -> Tensor:
        embedded = super().embed(tokens)
        if self.mask_embedding is None:
            return embedded
        mask = (self.mask_embedding * self.target.embedding_scale).to(embedded.dtype)
        return torch.where((tokens == self.mask_token)[..., None], mask, embedded)

    # --- training -------------------------------------------------------------------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        """Every eligible anchor with the steps COD keeps; `anchors` is ignored, since the whole text runs anyway."""
        grid = anchor_grid(batch, self.max_draft, batch.input_ids.shape[1], seeds)
        return conditional_drop(grid, self.cod_ratio, self.cod_least, seeds)

    def previous_features(self, grid: Grid, features: Tensor) -> Tensor:
        """The features [B, S, F] that `inputs` adds to the text; PARD reads none, F = 0."""
        return features[..., :0]

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        batch, layout = grid.batch, lay_out(grid)
        (rows, length), masks = batch.input_ids.shape, layout.anchor.shape[1]
        at = layout.anchor.clamp(min=0)
        previous = self.previous_features(grid, features)
        previous_of_masks = previous.gather(1, at[..., None].expand(-1, -1, previous.shape[-1]))  # the anchor's row
        tokens = torch.cat((batch.input_ids, torch.full_like(at, self.mask_token)), dim=1)
        inputs = self.inputs(tokens, torch.cat((previous, previous_of_masks), dim=1))
        text_positions = document_positions(batch.document_ids)
        positions = torch.cat((text_positions, text_positions.gather(1, at) + layout.step - 1), dim=1)
        predicate = pard_predicate(batch.document_ids, layout.anchor, layout.step)
        visible = attention_mask(predicate, rows, length + masks, length + masks, at.device)
        visible = visible[:, 0] if isinstance(visible, Tensor) else visible
        hidden = self.run(inputs, positions, visible, None)
        return self._to_grid(grid, layout, hidden[:, :length], hidden[:, length:])

    def _to_grid(self, grid: Grid, layout: Layout, text: Tensor, masks: Tensor) -> Tensor:
        """Hidden states [N, K, H]: step 1 from the anchor's own token, later ones from its masks, zero if dropped."""
        rows, later = len(text), grid.labels.shape[1] - 1
        first = text[grid.rows, grid.anchors][:, None]
        placed = masks.new_zeros(rows, grid.labels.shape[0] // rows * later, masks.shape[-1])
        masks = torch.where(layout.present[..., None], masks, 0.0)
        placed = placed.scatter(1, layout.place[..., None].expand_as(masks), masks)
        return torch.cat((first, placed.view(len(first), later, masks.shape[-1])), dim=1)

    # --- decoding -------------------------------------------------------------------------------------------------

    def draft_hidden(self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int) -> Tensor:
        """Hidden states [rows, steps, H] of the newest token and its masks."""
        tokens = torch.full((len(anchors), steps), self.mask_token, device=anchors.device)
        tokens[:, 0] = anchors
        features = state.last_features[list(slots), None].expand(-1, steps, -1)
        return self.draft_behind(state, slots, self.inputs(tokens, features))

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        return self.proposal(self.head(self.draft_hidden(state, slots, anchors, steps)), sampler)

    # --- on disk ----------------------------------------------------------------------------------------------------

    def engine_config(self) -> dict[str, Any]:
        return {"pard_token": self.mask_token}

    def own_config(self) -> dict[str, Any]:
        return {**super().own_config(), "cod_ratio": self.cod_ratio, "cod_least": self.cod_least}

    def own_tensors(self) -> dict[str, Tensor]:
        own = {} if self.mask_embedding is None else {"mask_embedding": self.mask_embedding}
        return {**super().own_tensors(), **own}

    def take_own_tensors(self, directory: Path) -> None:
        tensors = read_own_tensors(directory, self)
        if self.mask_embedding is not None:
            if "mask_embedding" not in tensors:
                raise UserError(
                    f"drafter {directory} lacks its mask's embedding; copy the whole directory, {OWN_TENSORS} too"
                )
            self.mask_embedding.data = tensors["mask_embedding"].to(self.mask_embedding)

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return "pard_token" in config and not config.get("pard2")

    @classmethod
    def create(cls, section: Any, target: Target) -> Pard:
        model = starting_model(section, target)
        mask, share = mask_of(section, model, target), section.share_embedding
        drafter = cls(model, target, section.draft_length, mask, section.cod_ratio, section.cod_least, share)
        return drafter.to(target.device)

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Pard:
        own = own_settings(directory)
        drafter = cls(
            load_language_model(directory, target, dtype),
            target,
            cls.trained_length(read_config(directory)),
            saved_mask(directory),
            float(own.get("cod_ratio", 0.7)),
            float(own.get("cod_least", 0.1)),
            bool(own.get("share_embedding")),
        )
        drafter.take_own_tensors(directory)
        return drafter.to(target.device).eval()


def saved_mask(directory: Path) -> int:
    token = read_config(directory).get("pard_token")
    if not isinstance(token, int):
        raise UserError(f"drafter {directory}: pard_token in config.json must be a token's number, not {token!r}")
    return token


def mask_of(section: ParallelSection, model: PreTrainedModel, target: Target) -> int:
    """The mask's id: the configured one, else that of the starting model, else an unused id of the target's tokenizer,
    else a new id for which the embedding gets a row more."""
    if section.mask_token is not None:
        return section.mask_token
    if section.init_from not in (None, "target"):
        directory = drafter_directory(section.init_from)
        if "pard_token" in read_config(directory):
            return saved_mask(directory)
    try:
        return unused_token(target)
    except UserError:
        if section.share_embedding:
            raise
        return new_token(model)


@torch.no_grad()
def new_token(model: PreTrainedModel) -> int:
    """An id more, which starts as the average of the others."""
    size = int(model.config.get_text_config().vocab_size)
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight: Any = module.weight
        weight[size] = weight[:size].mean(0)
    return size
