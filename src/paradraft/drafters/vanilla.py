"""A plain draft model: a small causal language model that drafts step by step (arXiv 2211.17192).

The baseline that parallel drafters are compared with. Its directory is that of any Hugging Face causal LM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..models import Target
from ..models.attention import document_attention
from .base import Proposal, Sampler
from .directory import read_config
from .grid import Batch, Grid, anchor_grid
from .language_model import (
    LanguageModelDrafter,
    LanguageModelSection,
    load_language_model,
    own_settings,
    read_own_tensors,
)
from .language_model_start import starting_model
from .state import DraftState


class VanillaSection(LanguageModelSection):
    kind: Literal["vanilla"] = "vanilla"


class Vanilla(LanguageModelDrafter):
    kind = "vanilla"
    section = VanillaSection
    modes = ("independent",)
    parallel = False
    usual_length = 4  # more steps pay only if nearly every token is accepted

    # --- training: next-token prediction, so only step 1 of the grid exists -----------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        """Every eligible position; `anchors` is ignored, since one forward gives them all."""
        return anchor_grid(batch, 1, batch.input_ids.shape[1], seeds)

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        batch = grid.batch
        positions, visible = document_attention(batch.document_ids)
        hidden = self.run(self.inputs(batch.input_ids, features), positions, visible, None)
        return hidden[grid.rows, grid.anchors][:, None]

    # --- decoding -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        slots, cache = list(slots), state.cache
        features = state.last_features[slots]
        hidden = self.draft_behind(state, slots, self.inputs(anchors, features)[:, None])
        committed, one = cache.lengths[slots], torch.ones(len(slots), dtype=torch.long)
        drafted = []
        for step in range(steps):
            drafted.append(self.proposal(self.head(hidden), sampler))
            if step + 1 < steps:
                cache.commit(one)
                hidden = self.run_in_slots(self.inputs(drafted[-1].tokens, features), cache, slots)
        cache.lengths[slots] = committed
        return Proposal.joined(drafted)

    # --- on disk ----------------------------------------------------------------------------------------------------

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or [])

    @classmethod
    def create(cls, section: VanillaSection, target: Target) -> Vanilla:
        model = starting_model(section, target)
        return cls(model, target, section.draft_length, section.share_embedding).to(target.device)

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Vanilla:
        own = own_settings(directory)
        steps, share = cls.trained_length(read_config(directory)), bool(own.get("share_embedding"))
        drafter = cls(load_language_model(directory, target, dtype), target, steps, share)
        read_own_tensors(directory, drafter)
        return drafter.to(target.device).eval()
