"""DFlash 2 with few weights, this project's own: tokens as the target embeds them, the newest features in every slot.

DFlash 2's selector has two vectors for each token of the vocabulary, by default of 256 numbers: in a small drafter
they are more than all other weights. Here both are projections of the target's embedding e, scaled to a root mean
square of 1: A[p] = W_A e(p), B[b] = W_B e(b). So what is learned of one token serves all that are like it.

Slot j reads its embedding + c_j * f, products by element. f is the projected context right before the anchor, whose
features are the newest there are; DFlash's slots have to find it by attention. The anchor's own slot drafts too, as in
DSpark: it holds the token and the features that the first draft follows from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from ..models import Target
from .dflash2 import DFlash2, DFlash2Config, DFlash2Section, Selector
from .dflash_config import block_size_of

OWN = ("newest", "sample_from_anchor")  # in config.json under `paradraft`


class DFlash2TiedSection(DFlash2Section):
    kind: Literal["dflash2_tied"] = "dflash2_tied"  # type: ignore[assignment]
    block_size: int = Field(15, ge=1, description="slots of a block; each drafts, the anchor's too")
    conv_group: int = Field(64, ge=1, description="channels that share a kernel; they must divide the target's width")
    selector_rank: int = Field(128, ge=1, description="width of the selector's term")
    newest: bool = Field(True, description="slots read the newest features themselves, not by attention alone")
    sample_from_anchor: bool = Field(True, description="false: the anchor's slot drafts nothing, as in DFlash")


@dataclass(frozen=True, kw_only=True)
class DFlash2TiedConfig(DFlash2Config):
    newest: bool = True

    def saved(self) -> dict[str, Any]:
        found = super().saved()
        return found | {"paradraft": found["paradraft"] | {name: getattr(self, name) for name in OWN}}

    @classmethod
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        return super().own_fields(saved) | {name: bool(saved["paradraft"][name]) for name in OWN}


class TiedSelector(Selector):
    """`embedding`: the target's, which is neither trained nor saved."""

    def __init__(self, embedding: nn.Module, size: int, rank: int) -> None:
        super().__init__(size, rank)
        self.embedding = (embedding,)  # a tuple hides it from the module's parameters
        self.predecessor_projection = nn.Linear(size, rank, bias=False)
        self.successor_projection = nn.Linear(size, rank, bias=False)
        nn.init.normal_(self.predecessor_projection.weight, std=size**-0.5)
        nn.init.zeros_(self.successor_projection.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding[0](tokens).to(self.hidden_projection.weight.dtype)
        return F.rms_norm(embedded, embedded.shape[-1:])

    def predecessors(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.predecessor_projection(self.embed(tokens))
        return found

    def successors(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.successor_projection(self.embed(tokens))
        return found


class DFlash2Tied(DFlash2):
    kind = "dflash2_tied"
    section = DFlash2TiedSection
    architecture = "DFlash2TiedDraftModel"
    config_class = DFlash2TiedConfig
    config: DFlash2TiedConfig
    own_fields = (*DFlash2.own_fields, *OWN)
    list_names = ()

    def __init__(self, config: DFlash2TiedConfig, target: Target) -> None:
        super().__init__(config, target)
        self.adds_newest = config.newest
        if config.newest:
            self.newest_scale = nn.Parameter(torch.zeros(config.block_size, config.hidden_size))

    @classmethod
    def trained_length(cls, config: Mapping[str, Any]) -> int:
        return block_size_of(config) - (not config["paradraft"]["sample_from_anchor"])

    def new_selector(self) -> Selector:
        return TiedSelector(self.target.embedding, self.config.hidden_size, self.config.selector_rank)

    @classmethod
    def fresh(cls, target: Target, *sizes: Any, **own: Any) -> Self:
        """The newest features begin as large as the embedding."""
        drafter, embedding = super().fresh(target, *sizes, **own), target.embedding.weight
        if drafter.adds_newest and not embedding.is_meta:
            size = float(embedding.detach().float().square().mean().sqrt()) * float(target.embedding_scale)
            drafter.newest_scale.data.fill_(size)
        return drafter

    def _inputs(self, anchor_tokens: Tensor, block: int, newest: Tensor | None) -> Tensor:
        inputs = super()._inputs(anchor_tokens, block, None)
        if not self.adds_newest:
            return inputs
        assert newest is not None
        return inputs + newest[:, :, None] * self.newest_scale[:block]
