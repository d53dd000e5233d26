"""DFlash 2 (z-lab, 2026): DFlash with short convolutions over the slots of a block, and a path through its candidates.

Every sublayer filters its normed input and its output over the slots before, with kernels that depend on the slot. The
candidates of a slot are its k likeliest tokens; the *selector* adds to each one's logit a term of the token before it
(the text's own in training, the drafted one in drafting), and a draft walks from slot to slot. Sampled, the draft
distribution is that of the k candidates and zero elsewhere. A fresh drafter is DFlash: the convolutions start as the
identity, the selector's term at zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from ..errors import UserError
from ..models import Target
from ..models.names import drafter_directory
from .base import Proposal, Sampler, check_start
from .dflash import SIZES, BlockSection, DFlash
from .dflash_config import DFlashConfig
from .directory import read_config
from .grid import Grid
from .layers import Layer
from .state import DraftState

IN, OUT = 0, 1  # sides of a convolution
INNER = {  # our names and those of dflash_config
    "conv_taps": "conv_kernel_size",
    "conv_group": "conv_group_size",
    "selector_rank": "selector_rank",
    "selector_top_k": "selector_top_k",
}


class DFlash2Section(BlockSection):
    kind: Literal["dflash2"] = "dflash2"
    conv_taps: int = Field(2, ge=1, description="slots that a convolution reads: its own and those before it")
    conv_group: int = Field(16, ge=1, description="channels that share a kernel; they must divide the target's width")
    selector_rank: int = Field(256, ge=1, description="width of the selector's term")
    selector_top_k: int = Field(16, ge=2, description="candidates of a slot")
    selector_weight: float = Field(1.0, gt=0, description="of the selector's loss beside the token loss")


@dataclass(frozen=True, kw_only=True)
class DFlash2Config(DFlashConfig):
    """DFlash's sizes and what DFlash 2 adds, as its section names them."""

    conv_taps: int = 2
    conv_group: int = 16
    selector_rank: int = 256
    selector_top_k: int = 16
    selector_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.conv_group:
            raise ValueError(f"conv_group {self.conv_group} does not divide the width of {self.hidden_size}")
        if self.selector_top_k > self.vocabulary_size:
            raise ValueError(f"selector_top_k {self.selector_top_k} is more than the {self.vocabulary_size} tokens")

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        return (*super().size_names(), *INNER)

    def saved(self) -> dict[str, Any]:
        found = super().saved()
        inner = {theirs: getattr(self, ours) for ours, theirs in INNER.items()}
        found["dflash_config"] = found["dflash_config"] | {"block_size": self.block_size} | inner
        return found | {"paradraft": {"selector_weight": self.selector_weight}}

    @classmethod
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        found, inner = super().own_fields(saved), saved["dflash_config"]
        if found["causal"]:
            raise ValueError("its blocks are causal, which those of DFlash 2 are not")
        weight = float((saved.get("paradraft") or {}).get("selector_weight", 1.0))
        return found | {ours: inner[theirs] for ours, theirs in INNER.items()} | {"selector_weight": weight}


class BlockConvolution(nn.Module):
    """out[i, c] = sum_t (base[side, t, c] + delta[i, side, t, c // group]) x[i - t, c], zero before the block's slot 0.

    The deltas of a slot are a linear map of the sublayer's normed input there.
    """

    def __init__(self, size: int, taps: int, group: int) -> None:
        super().__init__()
        self.taps, self.group = taps, group
        self.base_kernel = nn.Parameter(torch.zeros(2, taps, size))
        nn.init.ones_(self.base_kernel[:, 0])
        self.kernel_projection = nn.Linear(size, 2 * taps * (size // group), bias=False)

    def deltas(self, normed: Tensor) -> Tensor:
        """[..., 2, taps, groups] of normed inputs [..., H]."""
        projected: Tensor = self.kernel_projection(normed)
        return projected.unflatten(-1, (2, self.taps, -1))

    def forward(self, x: Tensor, deltas: Tensor, side: int, block: int) -> Tensor:
        """x [rows, T, H] of whole blocks of `block` slots."""
        slots, own = x.unflatten(1, (-1, block)), deltas[..., side, :, :].unflatten(1, (-1, block))
        found = torch.zeros_like(slots)
        for tap in range(self.taps):
            kernel = self.base_kernel[side, tap] + own[..., tap, :].repeat_interleave(self.group, dim=-1)
            before = F.pad(slots, (0, 0, tap, 0))[..., :block, :]
            found = found + kernel.to(x.dtype) * before
        return found.flatten(1, 2)


class ConvolvedLayer(Layer):
    """A layer of DFlash whose sublayers' inputs and outputs are filtered; the context is not."""

    def __init__(self, config: DFlash2Config) -> None:
        super().__init__(config)
        sizes = config.hidden_size, config.conv_taps, config.conv_group
        self.attention_conv, self.mlp_conv = BlockConvolution(*sizes), BlockConvolution(*sizes)

    def run(self, hidden: Tensor, attention: Callable[[Tensor], Tensor], block: int) -> Tensor:
        normed = self.input_layernorm(hidden)
        deltas = self.attention_conv.deltas(normed)
        attended = attention(self.attention_conv(normed, deltas, IN, block))
        hidden = hidden + self.attention_conv(attended, deltas, OUT, block)
        normed = self.post_attention_layernorm(hidden)
        deltas = self.mlp_conv.deltas(normed)
        after: Tensor = hidden + self.mlp_conv(self.mlp(self.mlp_conv(normed, deltas, IN, block)), deltas, OUT, block)
        return after


class Selector(nn.Module, ABC):
    """Scores S(p, b) = U(b) + <A[p] * P h, B[b]> of candidates b behind the token p; the products by element."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.hidden_projection = nn.Linear(size, rank, bias=False)

    @abstractmethod
    def predecessors(self, tokens: Tensor) -> Tensor:
        """A, [..., r] of tokens [...]."""

    @abstractmethod
    def successors(self, tokens: Tensor) -> Tensor:
        """B, alike."""

    def edges(self, before: Tensor, hidden: Tensor) -> Tensor:
        """A[p] * P h, [..., r]: of tokens before [...] and slots [..., H]."""
        projected: Tensor = self.hidden_projection(hidden)
        return self.predecessors(before) * projected

    def scores(self, unary: Tensor, candidates: Tensor, edges: Tensor) -> Tensor:
        """[..., k] of logits [..., k] and the target's ids [..., k]; edges [..., r]."""
        successors = self.successors(candidates)
        return unary + (successors * edges[..., None, :].to(successors.dtype)).sum(-1).to(unary.dtype)


class CandidateSelector(Selector):
    """As published: A and B are lists of vectors, one for each token."""

    def __init__(self, vocabulary: int, size: int, rank: int) -> None:
        super().__init__(size, rank)
        self.predecessor_codebook = nn.Parameter(torch.randn(vocabulary, rank))
        self.successor_codebook = nn.Parameter(torch.zeros(vocabulary, rank))

    def predecessors(self, tokens: Tensor) -> Tensor:
        return self.predecessor_codebook[tokens]

    def successors(self, tokens: Tensor) -> Tensor:
        return self.successor_codebook[tokens]


class DFlash2(DFlash):
    """Its hidden states are the slot's and the selector's edge from the token before, side by side."""

    kind = "dflash2"
    section = DFlash2Section
    architecture = "DFlash2DraftModel"
    parallel = False
    config_class: type[DFlash2Config] = DFlash2Config
    config: DFlash2Config
    own_fields: tuple[str, ...] = (*INNER, "selector_weight")
    list_names: tuple[str, ...] = ("codebook",)

    def __init__(self, config: DFlash2Config, target: Target) -> None:
        super().__init__(config, target)
        for layer in self.decoder:
            assert isinstance(layer, ConvolvedLayer)
            for convolution in (layer.attention_conv, layer.mlp_conv):
                nn.init.zeros_(convolution.kernel_projection.weight)
        self.candidate_selector = self.new_selector()

    @classmethod
    def create(cls, section: Any, target: Target) -> Self:
        """`init_from` may also be a DFlash drafter, as which it then drafts at first."""
        start = None if section.init_from is None else drafter_directory(section.init_from)
        if start is None or not DFlash.reads(read_config(start)):
            return super().create(section, target)
        plain = DFlash.from_pretrained(start, target, torch.float32)
        shared = [name for name in (*SIZES, *cls.own_fields) if hasattr(plain.config, name)]
        check_start(section, {name: getattr(plain.config, name) for name in shared})
        if plain.config.causal:
            raise UserError(f"drafter.init_from {section.init_from} has causal blocks, which DFlash 2 does not have")
        own = {name: getattr(section, name) for name in cls.own_fields}
        try:
            drafter = cls(cls.config_class(**{**vars(plain.config), **own}), target)
        except ValueError as error:
            raise UserError(f"drafter: {error}") from None
        drafter.load_state_dict(plain.state_dict(), strict=False)
        if plain.vocabulary is not None:
            drafter.restrict(plain.vocabulary)
        return drafter.to(target.device)

    def new_layer(self) -> Layer:
        return ConvolvedLayer(self.config)

    def new_selector(self) -> Selector:
        config = self.config
        return CandidateSelector(config.vocabulary_size, config.hidden_size, config.selector_rank)

    def head(self, hidden: Tensor) -> Tensor:
        """The logits of the slots alone, of hidden states [..., H + r]."""
        return super().head(hidden[..., : self.config.hidden_size])

    def target_ids(self, tokens: Tensor) -> Tensor:
        """The target's ids of draft ids."""
        return tokens if self.vocabulary is None else self.vocabulary.ids[tokens]

    def candidates(self, logits: Tensor) -> Tensor:
        """Draft ids [..., k] of the likeliest tokens."""
        return logits.detach().topk(min(self.config.selector_top_k, logits.shape[-1]), dim=-1).indices

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        hidden = super().forward(grid, features)
        before = torch.cat((grid.anchor_tokens[:, None], grid.labels[:, :-1]), dim=1)
        edges = self.candidate_selector.edges(before, hidden)
        return torch.cat((hidden, edges.to(hidden.dtype)), dim=-1)

    def own_loss(self, hidden: Tensor, logits: Tensor, labels: Tensor, overlap: Tensor | None) -> Tensor | None:
        """Cross entropy of the selector over the candidates; a label that is not among them replaces the weakest."""
        candidates = self.candidates(logits)
        missing = ~(candidates == labels[:, None]).any(-1)
        candidates[:, -1] = torch.where(missing, labels, candidates[:, -1])
        edges = hidden[..., self.config.hidden_size :]
        unary = logits.gather(-1, candidates).float()
        scores = self.candidate_selector.scores(unary, self.target_ids(candidates), edges)
        place = (candidates == labels[:, None]).long().argmax(-1)
        return self.config.selector_weight * F.cross_entropy(scores, place, reduction="none")

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        """Walk through the candidates of the slots."""
        hidden = self.draft_hidden(state, slots, anchors, steps)
        logits, tokens = self.head(hidden), anchors[:, None]
        chosen = self.candidates(logits)
        unary, ids = logits.gather(-1, chosen), self.target_ids(chosen)
        drafted: list[Proposal] = []
        for step in range(hidden.shape[1]):
            here = slice(step, step + 1)
            edges = self.candidate_selector.edges(tokens, hidden[:, here])
            picked, among = sampler(self.candidate_selector.scores(unary[:, here], ids[:, here], edges))
            tokens = ids[:, step].gather(-1, picked)
            whole = None
            if among is not None:
                empty = among.new_zeros(len(among), 1, self.target.vocabulary_size)
                whole = empty.scatter(-1, ids[:, here], among)
            drafted.append(Proposal(tokens, whole))
        return Proposal.joined(drafted)
