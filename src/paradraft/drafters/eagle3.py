"""EAGLE-3 (arXiv 2503.01840): one decoder layer over a token's embedding and the target's fused features.

Place t of a text holds token x_t and the features of position t - 1, fused by `fc`; the output there predicts x_{t+1}.
The newest token has the last features that there are; later drafted tokens take the layer's own output, before the
final norm, in place of the missing ones. Training unrolls these steps the same way (*training-time test*): each step
reads the text up to the anchor and its own earlier steps. The first token of a text has no features before it: its
place is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..errors import UserError
from ..models import KeyValueSlots, Target
from ..models.attention import document_positions
from ..models.cpu_kernels import linears_to_pack, pack_for_decoding
from ..models.names import drafter_directory
from .attention import Predicate, attention_mask
from .base import BranchingDrafter, DrafterSection, Grow, Proposal, Sampler, check_start
from .directory import check_feature_layers, dtype_name, read_config, read_weights, write_directory
from .eagle3_config import DRAFT_LENGTH, Eagle3Config, published_layers
from .grid import Batch, Grid, anchor_grid
from .layers import Attention, Layer, RMSNorm, init_matrices, rotation_at
from .state import DraftState, lay_behind
from .vocabulary import DraftVocabulary


class Eagle3Section(DrafterSection):
    kind: Literal["eagle3"] = "eagle3"
    layers: Literal[1] = Field(1, description="EAGLE-3 has one decoder layer")
    draft_length: int = Field(7, ge=1, description="steps unrolled in training, and most tokens drafted a round")
    feature_layers: Literal["auto"] | tuple[int, ...] = Field(
        "auto", description="0-based target layers whose outputs are read, never the last; auto: three, as published"
    )


class EagleLayer(Layer):
    """A Llama layer whose attention reads [embedding, features], each normed, and adds to the features."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__(config)
        self.self_attn = Attention(config, inputs=2 * config.hidden_size, normed=False)
        self.hidden_norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.norm_before_residual = config.norm_before_residual

    def inputs(self, embedded: Tensor, features: Tensor) -> Tensor:
        """What attention reads, [..., 2 H]; both [..., H]."""
        return torch.cat((self.input_layernorm(embedded), self.hidden_norm(features)), dim=-1)

    def step(
        self,
        features: Tensor,
        inputs: Tensor,
        rotation: tuple[Tensor, Tensor],
        keys_values: tuple[Tensor, Tensor],
        mask: Any,
    ) -> Tensor:
        """Hidden states [rows, T, H] before the final norm, which stand in for the features of the next place."""
        residual = self.hidden_norm(features) if self.norm_before_residual else features
        hidden = residual + self.self_attn.attend(inputs, rotation, *keys_values, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def unrolled_predicate(anchors: Tensor, document_ids: Tensor) -> Predicate:
    """Queries: one step of A anchors [B, A]. Keys: the S places of the text, then the own steps of all A, one by one.

    A query sees its document up to its anchor, but for the document's first place, and the steps of its own anchor.
    """
    length, count = document_ids.shape[1], anchors.shape[1]
    anchor_documents = document_ids.gather(1, anchors)
    known = document_positions(document_ids) > 0

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_text = key < length
        place = torch.where(in_text, key, 0)
        own_document = document_ids[row, place] == anchor_documents[row, query]
        text = own_document & known[row, place] & (place <= anchors[row, query])
        return torch.where(in_text, text, (key - length) % count == query)

    return visible


class Eagle3(BranchingDrafter):
    kind = "eagle3"
    keeps_vocabulary = True
    section = Eagle3Section
    architecture = "LlamaForCausalLMEagle3"
    config_class = Eagle3Config
    bound = True
    usual_length = DRAFT_LENGTH

    def __init__(self, config: Eagle3Config, target: Target) -> None:
        super().__init__(target)
        self.config = config
        self.feature_layers, self.max_draft = config.feature_layers, config.draft_length
        self._check_target(target)
        size = config.hidden_size
        self.fc = nn.Linear(len(config.feature_layers) * size, size, bias=False)
        self.midlayer = EagleLayer(config)
        self.norm = RMSNorm(size, config.norm_epsilon)
        self.lm_head = nn.Linear(size, config.vocabulary_size, bias=False)
        init_matrices(self)

    def _check_target(self, target: Target) -> None:
        config = self.config
        for what, mine, theirs in (
            ("hidden size", config.hidden_size, target.hidden_size),
            ("vocabulary", config.vocabulary_size, target.vocabulary_size),
        ):
            if mine != theirs:
                raise UserError(
                    f"this EAGLE-3 drafter was made for a target with {what} {mine}, but {target.name} has {theirs}; "
                    "use the target it was trained for, or train a drafter for this one"
                )
        target.check_layers(config.feature_layers)

    def restrict(self, vocabulary: DraftVocabulary) -> None:
        """Propose only these tokens from now on; the head keeps their rows."""
        whole = self.lm_head.weight
        self.vocabulary = vocabulary.to(self.target.device)
        self.lm_head = nn.Linear(self.config.hidden_size, len(vocabulary), bias=False).to(whole)
        self.lm_head.weight.data = whole.detach()[vocabulary.ids.to(whole.device)].contiguous()

    # --- shared by training and decoding ----------------------------------------------------------------------

    def head(self, hidden: Tensor) -> Tensor:
        """Logits by its own head: [..., V], or [..., V_d] with a reduced vocabulary."""
        logits: Tensor = self.lm_head(hidden.to(self.lm_head.weight.dtype))
        return logits

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.target.embedding(tokens).to(self.norm.weight.dtype)

    def _fused(self, features: Tensor) -> Tensor:
        fused: Tensor = self.fc(features.to(self.fc.weight.dtype))
        return fused

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotation_at(positions, self.config.head_dim, self.config.rope_theta, self.norm.weight.dtype)

    # --- training -------------------------------------------------------------------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        """Sampled anchors; the first token of a document is none, because no features stand before it."""
        grid = anchor_grid(batch, self.max_draft, anchors, seeds)
        known = document_positions(batch.document_ids)[grid.rows, grid.anchors] > 0
        return replace(grid, valid=grid.valid & known[:, None])

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        (rows, length), steps = grid.batch.input_ids.shape, grid.labels.shape[1]
        layer, anchors = self.midlayer, grid.anchors.view(rows, -1)
        count = anchors.shape[1]
        at = anchors[..., None]
        before = self._fused(features).roll(1, dims=1)  # a document's first place gets a wrong one and is never read
        text = layer.inputs(self._embed(grid.batch.input_ids), before)
        places = torch.arange(length, device=at.device).expand(rows, length)
        keys_values = layer.self_attn.keys_values(text, self._rotation(places))
        predicate = unrolled_predicate(anchors, grid.batch.document_ids)
        hidden = before.gather(1, at.expand(-1, -1, before.shape[-1]))
        inputs = text.gather(1, at.expand(-1, -1, text.shape[-1]))
        found: list[Tensor] = []
        for step in range(steps):
            rotation = self._rotation(anchors + step)
            if step:
                tokens = grid.labels.view(rows, count, steps)[..., step - 1]
                inputs = layer.inputs(self._embed(tokens), hidden)
                own = layer.self_attn.keys_values(inputs, rotation)
                keys_values = torch.cat((keys_values[0], own[0]), 2), torch.cat((keys_values[1], own[1]), 2)
            mask = attention_mask(predicate, rows, count, length + step * count, at.device)
            hidden = layer.step(hidden, inputs, rotation, keys_values, mask)
            found.append(hidden)
        return self.norm(torch.stack(found, dim=2)).flatten(0, 1)

    # --- decoding -------------------------------------------------------------------------------------------------

    def prepare_decoding(self) -> None:
        pack_for_decoding(self, self.midlayer.fuse(bool(linears_to_pack(self))))

    def start(self, rows: int, capacity: int) -> DraftState:
        longest, size, weight = self.max_draft + 1, self.config.hidden_size, self.norm.weight
        cache = KeyValueSlots(1, rows, capacity + longest, weight.device)
        return DraftState(cache, weight.new_zeros(rows, longest, 2 * size), weight.new_zeros(rows, size))

    @torch.no_grad()
    def observe(
        self, state: DraftState, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor
    ) -> None:
        most = int(counts.max())
        known = state.with_last(slots, self._fused(features[:, :most]), counts)
        inputs = self.midlayer.inputs(self._embed(tokens[:, :most]), known[:, :-1])
        state.receive(slots, inputs, counts, self._consume)

    def _consume(self, state: DraftState, slots: Sequence[int], inputs: Tensor, counts: Tensor) -> None:
        self._attend_to(state, slots, inputs)
        state.cache.commit(counts)

    def _attend_to(
        self, state: DraftState, slots: Sequence[int], inputs: Tensor, parents: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Write keys and values of `inputs` [rows, T, 2 H]: their places, what they see, all keys and values.

        `parents` as `reserve` takes them.
        """
        positions, visible = state.cache.reserve(slots, inputs.shape[1], parents)
        keys, values = self.midlayer.self_attn.keys_values(inputs, self._rotation(positions))
        return (
            positions,
            visible & (torch.arange(visible.shape[-1], device=visible.device) > 0),
            state.cache.update(keys, values, 0),
        )

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        slots, cache, layer = list(slots), state.cache, self.midlayer
        one = torch.ones(len(slots), dtype=torch.long)
        committed = state.starts(slots)
        hidden, tokens = state.last_features[slots][:, None], anchors[:, None]
        pending, counts = state.flush(slots)
        drafted: list[Proposal] = []
        for _ in range(steps):
            inputs = layer.inputs(self._embed(tokens), hidden)
            laid, place = lay_behind(pending, counts, inputs)
            places, visible, keys_values = self._attend_to(state, slots, laid)
            mask = visible.gather(1, place[..., None].expand(-1, -1, visible.shape[-1]))[:, None]
            hidden = layer.step(hidden, inputs, self._rotation(places.gather(1, place)), keys_values, mask)
            cache.commit(counts + one)
            pending, counts = inputs[:, :0], torch.zeros_like(one)
            drafted.append(self.proposal(self.head(self.norm(hidden)), sampler))
            tokens = drafted[-1].tokens
        cache.lengths[slots] = committed
        return Proposal.joined(drafted)

    @torch.no_grad()
    def propose_tree(self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, grow: Grow) -> None:
        slots, layer = list(slots), self.midlayer
        features, tokens = state.last_features[slots][:, None], anchors[:, None]
        pending, counts = state.flush(slots)
        if counts.any():
            self._consume(state, slots, pending, counts)
        inputs, parents, begin = features.new_empty(len(slots), 0, 2 * features.shape[-1]), tokens[:, :0], 0
        parent = torch.zeros_like(tokens)
        for _ in range(steps):
            parents = torch.cat((parents, begin + parent), dim=1)
            inputs = torch.cat((inputs, layer.inputs(self._embed(tokens), features)), dim=1)
            places, visible, keys_values = self._attend_to(state, slots, inputs, parents)
            newest = slice(inputs.shape[1] - tokens.shape[1], None)
            rotation = self._rotation(places[:, newest])
            hidden = layer.step(features, inputs[:, newest], rotation, keys_values, visible[:, None, newest])
            drafted, parent = grow(self.head(self.norm(hidden)))
            begin = inputs.shape[1] - tokens.shape[1]
            features = hidden.gather(1, parent[..., None].expand(-1, -1, hidden.shape[-1]))
            tokens = drafted if self.vocabulary is None else self.vocabulary.ids[drafted]

    # --- on disk ----------------------------------------------------------------------------------------------------

    def save_pretrained(self, directory: Path) -> None:
        config = self.config.saved() | {"architectures": [self.architecture], "dtype": dtype_name(self.norm.weight)}
        write_directory(directory, config, self)

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return cls.architecture in (config.get("architectures") or [])

    @classmethod
    def create(cls, section: Eagle3Section, target: Target) -> Eagle3:
        """Fresh weights, but for the head, which starts as the target's."""
        if section.init_from is not None:
            return cls._started(section, target)
        layers = published_layers(len(target.layers)) if section.feature_layers == "auto" else section.feature_layers
        check_feature_layers(target, layers)
        try:
            config = Eagle3Config.like_target(target, feature_layers=layers, draft_length=section.draft_length)
        except ValueError as error:
            raise UserError(f"drafter: {error}") from None
        drafter = cls(config, target)
        head: Any = target.output_embedding
        rows = head.weight.detach().to(drafter.lm_head.weight, copy=True)
        drafter.lm_head.weight.data = rows.contiguous()  # a target that is ready to decode keeps columns
        return drafter.to(target.device)

    @classmethod
    def _started(cls, section: Eagle3Section, target: Target) -> Eagle3:
        drafter = cls.from_pretrained(drafter_directory(str(section.init_from)), target, torch.float32)
        check_start(section, {"feature_layers": drafter.config.feature_layers})
        drafter.config = replace(drafter.config, draft_length=section.draft_length)
        drafter.max_draft = section.draft_length
        return drafter

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Eagle3:
        drafter = cls(Eagle3Config.from_saved(read_config(directory), directory), target)
        drafter.load_state_dict(read_weights(directory, drafter))
        return drafter.to(device=target.device, dtype=dtype or target.dtype).eval()
