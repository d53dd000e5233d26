"""DFlash, the block-diffusion drafter (arXiv 2602.06036): all tokens of a block in one bidirectional forward.

A block of size B stands at an anchor a: its inputs are the anchor's token and B - 1 masks, embedded by the target,
at positions a..a+B-1; slot k predicts token a + k. Every layer reads the block itself and a context of target
features at positions strictly before a, projected once and kept as keys and values. The target's head makes logits.

With `causal` a slot sees those before it only, as in JetSpec (arXiv 2606.18394), which is DFlash in all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from ..errors import UserError
from ..models import KeyValueSlots, Target
from ..models.cpu_kernels import linears_to_pack, pack_for_decoding
from ..models.graphs import Graphs, graphs_for
from ..models.lean import group_mask
from ..models.names import drafter_directory
from .attention import SharedKeys, attention_mask, dflash_predicate
from .base import FRESH_LAYERS, Drafter, DrafterSection, Proposal, Sampler, check_start
from .dflash_config import DFlashConfig, block_size_of
from .directory import check_feature_layers, dtype_name, read_config, read_weights, write_directory
from .fixed_draft import FixedDraft, Write
from .grid import Batch, Grid, anchor_grid, before_anchors
from .layers import Layer, RMSNorm, init_matrices, rotation_at
from .state import DraftState


class BlockSection(DrafterSection):
    """The fields that DFlash shares with the drafters on its backbone."""

    block_size: int = Field(16, ge=2, description="slots of a block: the anchor and block_size - 1 drafts")
    feature_layers: Literal["auto"] | tuple[int, ...] = Field(
        "auto", description="0-based target layers whose outputs are read, never the last; auto: as published"
    )
    mask_token: int | None = Field(None, ge=0, description="id of the mask; null finds an unused one")


class DFlashSection(BlockSection):
    kind: Literal["dflash"] = "dflash"
    causal: bool = Field(False, description="slots see the block up to themselves only (JetSpec); false: all of it")


SIZES = ("layers", "block_size", "feature_layers", "mask_token")  # of the section and of DFlashConfig


class DFlash(Drafter):
    """`adds_newest`: its slots also read the context right before the anchor directly, not by attention alone."""

    kind = "dflash"
    section: type[BlockSection] = DFlashSection
    architecture = "DFlashDraftModel"
    bound = True
    config_class: type[DFlashConfig] = DFlashConfig
    own_fields: tuple[str, ...] = ("causal",)  # of the section and the configuration, beside the sizes
    adds_newest = False

    def __init__(self, config: DFlashConfig, target: Target) -> None:
        super().__init__(target)
        self.config = config
        self.feature_layers = config.feature_layers
        self.max_draft = config.block_size - config.unused_slots
        self._check_target(target)
        self.fc = nn.Linear(len(config.feature_layers) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.layers = nn.ModuleList(self.new_layer() for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.graphs: Graphs | None = None  # on a GPU
        init_matrices(self)

    def new_layer(self) -> Layer:
        return Layer(self.config)

    def _check_target(self, target: Target) -> None:
        config = self.config
        for what, mine, theirs in (
            ("hidden size", config.hidden_size, target.hidden_size),
            ("vocabulary", config.vocabulary_size, target.vocabulary_size),
            ("layer count", config.target_layers, len(target.layers)),
        ):
            if mine != theirs:
                raise UserError(
                    f"this drafter was made for a target with {what} {mine}, but {target.name} has {theirs}; "
                    "use the target it was trained for, or train a drafter for this one"
                )
        target.check_layers(config.feature_layers)
        if len(target.layers) in config.feature_layers:
            raise UserError(
                f"DFlash cannot read feature layer {len(target.layers)} (after the final norm): no engine can"
            )
        if not 0 <= config.mask_token < config.vocabulary_size:
            raise UserError(f"mask token {config.mask_token} lies outside the vocabulary of {config.vocabulary_size}")

    @property
    def decoder(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))

    # --- shared by training and decoding ----------------------------------------------------------------------

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.target.embedding(tokens).to(self.norm.weight.dtype)

    def _blocks(self, anchor_tokens: Tensor, slots: int) -> Tensor:
        """[..., slots] ids: the anchor's token, then masks."""
        blocks = anchor_tokens[..., None].expand(*anchor_tokens.shape, slots).clone()
        blocks[..., 1:].fill_(self.config.mask_token)
        return blocks

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, T, head_dim] for positions [rows, T]."""
        return rotation_at(positions, self.config.head_dim, self.config.rope_theta, self.norm.weight.dtype)

    def _context(self, features: Tensor) -> Tensor:
        return self.hidden_norm(self.fc(features.to(self.fc.weight.dtype)))

    def _inputs(self, anchor_tokens: Tensor, block: int, newest: Tensor | None) -> Tensor:
        """What the slots of blocks at anchor_tokens [rows, A] read, [rows, A, block, H].

        newest [rows, A, H]: the context right before each anchor; only drafters with `adds_newest` are given it.
        """
        return self._embed(self._blocks(anchor_tokens, block))

    def _run(self, inputs: Tensor, attention: Callable[[int, Layer, Tensor], Tensor]) -> Tensor:
        """Final-normed hidden states of blocks of inputs [rows, A, block, H], alike in shape.

        `attention` is called with a layer's number, the layer and its normed input [rows, A * block, H].
        """
        block, hidden = inputs.shape[2], inputs.flatten(1, 2)
        for i, layer in enumerate(self.decoder):
            hidden = layer.run(hidden, partial(attention, i, layer), block)
        return self.norm(hidden).unflatten(1, (-1, block))

    # --- training -------------------------------------------------------------------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        return anchor_grid(batch, self.max_draft, anchors, seeds)

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        rows, length = grid.batch.document_ids.shape
        unused = self.config.unused_slots
        block = grid.labels.shape[1] + unused
        anchors = grid.anchors.view(rows, -1)
        positions = (anchors[..., None] + torch.arange(block, device=anchors.device)).flatten(1)
        context_positions = torch.arange(length, device=anchors.device).expand(rows, length)
        block_rotation, context_rotation = self._rotation(positions), self._rotation(context_positions)
        context = self._context(features)
        predicate = dflash_predicate(anchors, grid.batch.document_ids, block, self.config.causal)
        queries = positions.shape[1]
        mask = attention_mask(predicate, rows, queries, length + queries, anchors.device)

        def attention(i: int, layer: Layer, normed: Tensor) -> Tensor:
            context_keys, context_values = layer.self_attn.keys_values(context, context_rotation)
            keys, values = layer.self_attn.keys_values(normed, block_rotation)
            keys = torch.cat((context_keys, keys), dim=2)
            values = torch.cat((context_values, values), dim=2)
            return layer.self_attn.attend(normed, block_rotation, keys, values, mask)

        newest = before_anchors(context, anchors, grid.batch.document_ids) if self.adds_newest else None
        inputs = self._inputs(grid.anchor_tokens.view(rows, -1), block, newest)
        return self._run(inputs, attention)[:, :, unused:].flatten(0, 1)

    # --- decoding -------------------------------------------------------------------------------------------------

    def prepare_decoding(self) -> None:
        pack = bool(linears_to_pack(self))
        pack_for_decoding(self, [linear for layer in self.decoder for linear in layer.fuse(pack)])
        self.graphs = graphs_for(self.norm.weight.device)

    def start(self, rows: int, capacity: int) -> DraftState:
        config, weight = self.config, self.norm.weight
        cache = KeyValueSlots(config.layers, rows, capacity + config.block_size, weight.device)  # what waits is ragged
        pending = weight.new_zeros(rows, config.block_size, config.hidden_size)
        return DraftState(cache, pending, weight.new_zeros(rows, config.hidden_size if self.adds_newest else 0))

    @torch.no_grad()
    def observe(
        self, state: DraftState, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor
    ) -> None:
        context = self._context(features[:, : int(counts.max())])  # nothing to do for what every row rejected
        if self.adds_newest:
            state.with_last(slots, context, counts)
        state.receive(slots, context, counts, self._consume)

    def _consume(self, state: DraftState, slots: Sequence[int], context: Tensor, counts: Tensor) -> None:
        """Write keys and values of the first `counts` [rows] of `context` [rows, W, H]."""
        positions, _ = state.cache.reserve(slots, context.shape[1])
        rotation = self._rotation(positions)
        for i, layer in enumerate(self.decoder):
            state.cache.update(*layer.self_attn.keys_values(context, rotation), i)
        state.cache.commit(counts)

    @torch.no_grad()
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        return self.proposal(self.head(self.draft_hidden(state, slots, anchors, steps)), sampler)

    def draft_hidden(self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int) -> Tensor:
        """Hidden states [rows, steps, H] of the first slots that draft.

        Where slots see those behind them the block is as long as in training: a shorter one drafts worse. It is written
        behind the pending tokens. Rows with fewer of them have padding between, which positions and mask leave out. The
        block is not committed.
        """
        drafting = steps if self.config.causal else self.max_draft
        block, starts = self.config.unused_slots + drafting, state.starts(slots).to(anchors.device)
        newest = state.last_features[list(slots) if self.adds_newest else slice(len(slots))]  # else empty
        context, counts = state.flush(slots, self.graphs is not None)
        hidden = None
        if self.graphs is not None:
            hidden = self._from_graph(self.graphs, state, slots, (anchors, newest, context), counts, block)
        if hidden is None:
            places, _ = state.cache.reserve(slots, context.shape[1] + block)
            padded = context.shape[1] > int(counts.min())
            mask = self._draft_mask(starts, places[:, context.shape[1] :], state.cache.end, padded)
            hidden = self.draft_block(anchors, newest, context, starts, places, mask, state.cache.update)
        state.cache.commit(counts)
        return hidden[:, :steps]

    def draft_block(
        self,
        anchors: Tensor,
        newest: Tensor,
        context: Tensor,
        starts: Tensor,
        places: Tensor,
        mask: Any,
        write: Write,
    ) -> Tensor:
        """Hidden states [rows, steps, H] of blocks at `starts` [rows]; `places` [rows, W + block] of context and block.

        `newest` [rows, H or 0]: the state's `last_features`. `write` is given keys, values and a layer's number, and
        returns all that the mask is for.
        """
        pending = context.shape[1]
        block = places.shape[1] - pending
        own = starts[:, None] + torch.arange(block, device=anchors.device)
        positions = torch.cat((places[:, :pending], own), dim=1)
        cos, sin = self._rotation(positions)
        rotation, of_block = (cos, sin), (cos[:, :, pending:], sin[:, :, pending:])

        def attention(i: int, layer: Layer, normed: Tensor) -> Tensor:
            behind = torch.cat((context, normed), dim=1)
            keys, values = write(*layer.self_attn.keys_values(behind, rotation), i)
            return layer.self_attn.attend(normed, of_block, keys, values, mask)

        inputs = self._inputs(anchors[:, None], block, newest[:, None])
        return self._run(inputs, attention)[:, 0, self.config.unused_slots :]

    def _from_graph(
        self,
        graphs: Graphs,
        state: DraftState,
        slots: Sequence[int],
        read: tuple[Tensor, Tensor, Tensor],
        counts: Tensor,
        block: int,
    ) -> Tensor | None:
        """The same from a recording; None where there is none. `read`: anchors, newest and context."""
        context = read[2]
        tokens = context.shape[1] + block

        def make(rows: int, end: int) -> FixedDraft:
            return FixedDraft(self.draft_block, self._shared_mask, state.cache.layers, read, rows, block, end)

        def fill(fixed: FixedDraft, consumed: Tensor, rows: Tensor | None) -> None:
            fixed.fill(read, consumed, counts, rows)

        found = graphs.again(state.cache, slots, tokens, (self, tokens, context.dtype), make, fill)
        return None if found is None else found[0]

    def _draft_mask(self, starts: Tensor, places: Tensor, end: int, padded: bool) -> Tensor | None:
        """As `_block_sight`, [rows, 1, 1 or block, end]; None: everything. padded: between context and block."""
        if len(starts) == 1 and not padded and not self.config.causal:
            return None
        return self._block_sight(starts, places, end)[:, None]

    def _shared_mask(self, starts: Tensor, places: Tensor, end: int) -> SharedKeys:
        visible = self._block_sight(starts, places, end).expand(-1, places.shape[1], -1)
        return SharedKeys(group_mask(visible, self.norm.weight.dtype, self.config.heads // self.config.key_value_heads))

    def _block_sight(self, starts: Tensor, places: Tensor, end: int) -> Tensor:
        """What slots at `places` [rows, block] see of `end` places, [rows, 1 or block, end].

        A row's context, which ends at `starts` [rows], and its block; causal: of the block the slots up to itself.
        """
        seen, first = torch.arange(end, device=starts.device), places[:, :1, None]
        last = places[..., None] if self.config.causal else places[:, -1:, None]
        return (seen < starts[:, None, None]) | ((seen >= first) & (seen <= last))

    # --- on disk ----------------------------------------------------------------------------------------------------

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return cls.architecture in (config.get("architectures") or [])

    @classmethod
    def trained_length(cls, config: Mapping[str, Any]) -> int:
        return block_size_of(config) - 1

    @classmethod
    def create(cls, section: Any, target: Target) -> Self:
        if section.init_from is not None:
            drafter = cls.from_pretrained(drafter_directory(section.init_from), target, torch.float32)
            check_start(section, {name: getattr(drafter.config, name) for name in (*SIZES, *cls.own_fields)})
            return drafter
        layers = None if section.feature_layers == "auto" else section.feature_layers
        check_feature_layers(target, layers or ())
        own = {name: getattr(section, name) for name in cls.own_fields}
        try:
            return cls.fresh(
                target, section.layers or FRESH_LAYERS, section.block_size, layers, section.mask_token, **own
            )
        except ValueError as error:
            raise UserError(f"drafter: {error}") from None

    @classmethod
    def fresh(
        cls,
        target: Target,
        layers: int,
        block_size: int,
        feature_layers: tuple[int, ...] | None = None,
        mask_token: int | None = None,
        **own: Any,
    ) -> Self:
        """A new drafter with the target's width, heads and feed-forward size; `own`: other fields of its config."""
        config = cls.config_class.of_target(target, layers, block_size, feature_layers, mask_token, **own)
        return cls(config, target).to(target.device)

    def save_pretrained(self, directory: Path) -> None:
        config = self.config.saved() | {"architectures": [self.architecture], "dtype": dtype_name(self.norm.weight)}
        write_directory(directory, config, self)

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Self:
        drafter = cls(cls.config_class.from_saved(read_config(directory), directory), target)
        drafter.load_state_dict(read_weights(directory, drafter))
        return drafter.to(device=target.device, dtype=dtype or target.dtype).eval()
