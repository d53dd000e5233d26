"""DSpark (arXiv 2607.05147): DFlash's blocks, whose every draft also depends on the one before it.

A block of size B samples from the anchor: slot j, counted from 0, predicts token a + 1 + j, so K = B. Behind the
target's head comes a *Markov head* of low rank: it adds to the logits of slot j a bias made from the token before,
which is the text's own in training and the drafted one in drafting. A *confidence head* predicts from the same the
chance that the slot's draft is accepted; with `cut` a draft ends before the first slot whose chance is lower. That
chance depends on the tokens before the slot and not on the slot's own, so cutting keeps the target's distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..models import Target
from .base import Proposal, Sampler
from .dflash import BlockSection, DFlash
from .dflash_config import DFlashConfig, block_size_of
from .grid import Grid
from .state import DraftState
from .vocabulary import DraftVocabulary

MARKOV_HEADS = ("vanilla", "gated", "rnn")


class DSparkSection(BlockSection):
    kind: Literal["dspark"] = "dspark"
    block_size: int = Field(7, ge=1, description="slots of a block, each of which drafts")
    markov_head: Literal["vanilla", "gated", "rnn"] = Field(
        "vanilla", description="how the bias comes from the token before: its embedding, gated by the slot, or a state"
    )
    markov_rank: int = Field(256, ge=1, description="width of that embedding")
    confidence_head: bool = Field(True, description="predict the chance that a draft is accepted")
    confidence_with_markov: bool = Field(True, description="from the slot and the token before; false: the slot alone")
    confidence_weight: float = Field(1.0, gt=0, description="of its loss beside the token loss")
    cut: float = Field(
        0.0, ge=0, lt=1, description="end a draft before the first slot whose predicted chance is lower; 0: never"
    )

    @property
    def needs_overlap(self) -> bool:
        return self.confidence_head


@dataclass(frozen=True, kw_only=True)
class DSparkConfig(DFlashConfig):
    """DFlash's sizes and what DSpark adds, as its section names them; every slot drafts."""

    sample_from_anchor: bool = True
    markov_rank: int = 256
    markov_head: str = "vanilla"
    confidence_head: bool = True
    confidence_with_markov: bool = True
    confidence_weight: float = 1.0
    cut: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.markov_head not in MARKOV_HEADS:
            raise ValueError(f"markov_head_type must be one of {', '.join(MARKOV_HEADS)}, not {self.markov_head!r}")
        if not 0 <= self.cut < 1:
            raise ValueError(f"cut must lie in [0, 1), not {self.cut}")

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        return (*super().size_names(), "markov_rank")

    def saved(self) -> dict[str, Any]:
        """As DeepSpec writes it, the keys of DFlash's inner object at top level; what only we read by itself."""
        found = super().saved()
        inner = found.pop("dflash_config")
        return {
            **found,
            **inner,
            "sample_from_anchor": True,
            "num_anchors": 512,
            "markov_rank": self.markov_rank,
            "markov_head_type": self.markov_head,
            "enable_confidence_head": self.confidence_head,
            "confidence_head_with_markov": self.confidence_head and self.confidence_with_markov,
            "paradraft": {"confidence_weight": self.confidence_weight, "cut": self.cut},
        }

    @classmethod
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        if saved.get("sample_from_anchor") is False:
            raise ValueError("its slot 0 drafts nothing (sample_from_anchor), but DSpark's does")
        if saved.get("is_causal") or saved.get("causal"):
            raise ValueError("its blocks are causal, which DSpark's are not")
        own, confidence = saved.get("paradraft") or {}, bool(saved["enable_confidence_head"])
        return {
            "feature_layers": tuple(saved["target_layer_ids"]),
            "mask_token": saved["mask_token_id"],
            "markov_rank": saved["markov_rank"],
            "markov_head": saved["markov_head_type"],
            "confidence_head": confidence,
            "confidence_with_markov": bool(saved["confidence_head_with_markov"]) if confidence else True,
            "confidence_weight": float(own.get("confidence_weight", 1.0)),
            "cut": float(own.get("cut", 0.0)),
        }


class MarkovHead(nn.Module):
    """The bias of a slot's logits is `markov_w2` of a latent [..., r], made from the token before and the slot.

    vanilla: the token's embedding e. gated: sigmoid(Wg [h; e] + b) * e. rnn: tanh(o), where g, c, o = Wj [s; e; h] + b
    and the state s becomes sigmoid(g) s + (1 - sigmoid(g)) tanh(c).
    """

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        rank, size, self.variant = config.markov_rank, config.hidden_size, config.markov_head
        self.markov_w1 = nn.Embedding(config.vocabulary_size, rank)
        self.markov_w2 = nn.Linear(rank, config.vocabulary_size, bias=False)
        if self.variant == "gated":
            self.gate_proj = nn.Linear(size + rank, rank)
        elif self.variant == "rnn":
            self.joint_proj = nn.Linear(size + 2 * rank, 3 * rank)

    def step(self, embedded: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Latent and next state of one slot: [..., r] each; embedded [..., r] of the token before, hidden [..., H]."""
        if self.variant == "gated":
            return torch.sigmoid(self.gate_proj(torch.cat((hidden, embedded), dim=-1))) * embedded, state
        if self.variant == "rnn":
            joint = self.joint_proj(torch.cat((state, embedded, hidden), dim=-1))
            gate, candidate, output = joint.chunk(3, dim=-1)
            gate = torch.sigmoid(gate)
            return torch.tanh(output), gate * state + (1 - gate) * torch.tanh(candidate)
        return embedded, state

    def unrolled(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Latents [N, K, r] of all slots, with the tokens before them known."""
        if self.variant != "rnn":
            return self.step(embedded, hidden, embedded)[0]
        found, state = [], torch.zeros_like(embedded[:, 0])
        for slot in range(embedded.shape[1]):
            latent, state = self.step(embedded[:, slot], hidden[:, slot], state)
            found.append(latent)
        return torch.stack(found, dim=1)


class ConfidenceHead(nn.Module):
    """The logit [..., 1] of the chance that a slot's draft is accepted."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.with_markov = config.confidence_with_markov
        self.proj = nn.Linear(config.hidden_size + self.with_markov * config.markov_rank, 1)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """Of the slot [..., H] and the embedding [..., r] of the token before."""
        logit: Tensor = self.proj(torch.cat((hidden, embedded), dim=-1) if self.with_markov else hidden)
        return logit


class DSpark(DFlash):
    """Its hidden states are the slot's, the Markov head's latent and the confidence's logit, side by side."""

    kind = "dspark"
    section = DSparkSection
    architecture = "Qwen3DSparkModel"
    parallel = False
    config_class = DSparkConfig
    config: DSparkConfig
    own_fields = (
        *("markov_head", "markov_rank", "confidence_head", "confidence_with_markov"),
        *("confidence_weight", "cut"),
    )
    list_names = ("markov_w1", "markov_w2")
    keeps_vocabulary = True

    @classmethod
    def trained_length(cls, config: Mapping[str, Any]) -> int:
        return block_size_of(config)

    def __init__(self, config: DSparkConfig, target: Target) -> None:
        super().__init__(config, target)
        self.markov_head = MarkovHead(config)
        nn.init.zeros_(self.markov_head.markov_w2.weight)  # no bias at first: DFlash, but for the layout of its slots
        self.confidence_head = ConfidenceHead(config) if config.confidence_head else None

    def restrict(self, vocabulary: DraftVocabulary) -> None:
        """Propose only these tokens from now on; the bias keeps their rows, any token may come before."""
        super().restrict(vocabulary)
        whole = self.markov_head.markov_w2.weight
        self.markov_head.markov_w2 = nn.Linear(self.config.markov_rank, len(vocabulary), bias=False).to(whole)
        self.markov_head.markov_w2.weight.data = whole.detach()[vocabulary.ids.to(whole.device)].contiguous()

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of [..., H + r + 1]: the target's head of the slot, and the bias."""
        size, rank = self.config.hidden_size, self.config.markov_rank
        latent = hidden[..., size : size + rank].to(self.markov_head.markov_w1.weight.dtype)
        bias: Tensor = self.markov_head.markov_w2(latent)
        return super().head(hidden[..., :size]) + bias

    def _joined(self, hidden: Tensor, latent: Tensor, embedded: Tensor) -> Tensor:
        parts = [hidden, latent]
        if self.confidence_head is not None:
            parts.append(self.confidence_head(hidden, embedded))
        return torch.cat(parts, dim=-1)

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        hidden = super().forward(grid, features)
        before = torch.cat((grid.anchor_tokens[:, None], grid.labels[:, :-1]), dim=1)
        embedded = self.markov_head.markov_w1(before)
        return self._joined(hidden, self.markov_head.unrolled(embedded, hidden), embedded)

    def own_loss(self, hidden: Tensor, logits: Tensor, labels: Tensor, overlap: Tensor | None) -> Tensor | None:
        """Binary cross entropy of the confidence with the true chance of acceptance, sum_v min(p, q)."""
        if self.confidence_head is None or overlap is None:
            return None
        loss = F.binary_cross_entropy_with_logits(hidden[..., -1].float(), overlap, reduction="none")
        return self.config.confidence_weight * loss

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        hidden = self.draft_hidden(state, slots, anchors, steps)
        tokens, memory = anchors[:, None], hidden.new_zeros(len(anchors), 1, self.config.markov_rank)
        drafted: list[Proposal] = []
        chances: list[Tensor] = []
        for slot in hidden.split(1, dim=1):
            embedded = self.markov_head.markov_w1(tokens)
            latent, memory = self.markov_head.step(embedded, slot, memory)
            joined = self._joined(slot, latent, embedded)
            drafted.append(self.proposal(self.head(joined), sampler))
            chances.append(joined[:, 0, -1].float().sigmoid())
            tokens = drafted[-1].tokens
        if self.confidence_head is None or not self.config.cut:
            return Proposal.joined(drafted)
        worth = torch.stack(chances, dim=1) >= self.config.cut
        return Proposal.joined(drafted, worth.long().cumprod(-1).sum(-1).cpu())
