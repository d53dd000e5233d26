"""DFlash, the block-diffusion drafter (arXiv 2602.06036): all tokens of a block in one bidirectional forward.

A block of size B stands at an anchor a: its inputs are the anchor's token and B - 1 masks, embedded by the target,
at positions a..a+B-1; slot k predicts token a + k. Every layer reads the block itself and a context of target
features at positions strictly before a, projected once and kept as keys and values. The target's head makes logits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from ..models import Target
from ..models.cpu_kernels import soft_capped
from ..models.names import drafter_directory
from .attention import attention_mask, dflash_predicate
from .base import Drafter, DrafterSection, DraftState, Proposal, Sampler
from .dflash_state import DFlashState
from .directory import VOCABULARY_MAPS, check_feature_layers, check_rope, read_config, read_weights, unused_token
from .grid import Batch, Grid, anchor_grid
from .layers import Layer, RMSNorm
from .vocabulary import DraftVocabulary, FrozenLinear, head_rows


@dataclass(frozen=True)
class DFlashConfig:
    """Sizes of the drafter; `hidden_size` and `vocabulary_size` are the target's."""

    hidden_size: int
    vocabulary_size: int
    target_layers: int
    feature_layers: tuple[int, ...]
    mask_token: int
    layers: int = 5
    block_size: int = 16
    heads: int = 32
    key_value_heads: int = 8
    head_dim: int = 128
    intermediate_size: int = 9728
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 40960

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name not in ("feature_layers", "mask_token")}
        for name, value in sizes.items():
            kind = float if name in ("norm_epsilon", "rope_theta") else int
            if not isinstance(value, int | kind) or value <= 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if self.block_size < 2:
            raise ValueError("block_size must be at least 2: the anchor and a draft")
        if not isinstance(self.mask_token, int):
            raise ValueError(f"the mask token must be a token's number, not {self.mask_token!r}")
        ids = list(self.feature_layers)
        if not ids or not all(isinstance(i, int) for i in ids) or ids != sorted(set(ids)):
            raise ValueError(f"feature layers must be ascending ids without repeats (engines sort them), not {ids}")


class DFlashSection(DrafterSection):
    kind: Literal["dflash"] = "dflash"
    block_size: int = Field(16, ge=2, description="slots of a block: the anchor and block_size - 1 drafts")
    feature_layers: Literal["auto"] | tuple[int, ...] = Field(
        "auto", description="0-based target layers whose outputs are read, never the last; auto: as published"
    )
    mask_token: int | None = Field(None, ge=0, description="id of the mask; null finds an unused one")


def default_feature_layers(drafter_layers: int, target_layers: int) -> tuple[int, ...]:
    """n ids evenly spaced from 1 to N - 3 inclusive, rounded; a single one is N // 2."""
    if drafter_layers == 1:
        return (target_layers // 2,)
    span = max(0, target_layers - 4)
    ids = {min(round(1 + i * span / (drafter_layers - 1)), max(0, target_layers - 2)) for i in range(drafter_layers)}
    return tuple(sorted(ids))


def check_start(section: DFlashSection, start: DFlashConfig) -> None:
    """A run that starts from a drafter says what that drafter is, or nothing."""
    for name in ("layers", "block_size", "feature_layers", "mask_token"):
        asked, found = getattr(section, name), getattr(start, name)
        if asked not in (found, "auto", None):
            raise UserError(f"drafter.{name} is {asked}, but {section.init_from} has {found}; set it to that")


class DFlash(Drafter):
    kind = "dflash"
    section = DFlashSection
    architecture = "DFlashDraftModel"

    def __init__(self, config: DFlashConfig, target: Target) -> None:
        super().__init__()
        self.config = config
        self.feature_layers = config.feature_layers
        self.max_draft = config.block_size - 1
        self._check_target(target)
        self.target = target
        self.head_rows: FrozenLinear | None = None
        self.fc = nn.Linear(len(config.feature_layers) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon)
        for matrix in (p for p in self.parameters() if p.ndim == 2):
            nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5)  # 0.02 at a width of 2,560

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

    def head(self, hidden: Tensor) -> Tensor:
        hidden = hidden.to(self.target.dtype)
        if self.head_rows is None:
            return self.target.head(hidden)
        return soft_capped(self.head_rows(hidden), self.target.softcap)

    def restrict(self, vocabulary: DraftVocabulary) -> None:
        self.vocabulary = vocabulary.to(self.target.device)
        self.head_rows = head_rows(self.target.output_embedding, self.vocabulary.ids)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.target.embedding(tokens).to(self.norm.weight.dtype)

    def _blocks(self, anchor_tokens: Tensor, steps: int) -> Tensor:
        """[..., 1 + steps] ids: the anchor's token, then masks."""
        blocks = anchor_tokens[..., None].expand(*anchor_tokens.shape, 1 + steps).clone()
        blocks[..., 1:] = self.config.mask_token
        return blocks

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, T, head_dim] for positions [rows, T]."""
        exponents = torch.arange(0, self.config.head_dim, 2, device=positions.device) / self.config.head_dim
        angles = positions[..., None].float() * self.config.rope_theta**-exponents  # never in lower precision
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        dtype = self.norm.weight.dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _context(self, features: Tensor) -> Tensor:
        return self.hidden_norm(self.fc(features.to(self.fc.weight.dtype)))

    # --- training -------------------------------------------------------------------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        return anchor_grid(batch, self.max_draft, anchors, seeds)

    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        steps = grid.labels.shape[1]
        rows, length = grid.batch.document_ids.shape
        block = 1 + steps
        anchors = grid.anchors.view(rows, -1)
        positions = (anchors[..., None] + torch.arange(block, device=anchors.device)).flatten(1)
        context_positions = torch.arange(length, device=anchors.device).expand(rows, length)
        block_rotation, context_rotation = self._rotation(positions), self._rotation(context_positions)
        context = self._context(features)
        hidden = self._embed(self._blocks(grid.anchor_tokens.view(rows, -1), steps).flatten(1))
        queries = hidden.shape[1]
        predicate = dflash_predicate(anchors, grid.batch.document_ids, block)
        mask = attention_mask(predicate, rows, queries, length + queries, hidden.device)
        for layer in self.decoder:
            normed = layer.input_layernorm(hidden)
            context_keys, context_values = layer.self_attn.keys_values(context, context_rotation)
            keys, values = layer.self_attn.keys_values(normed, block_rotation)
            keys = torch.cat((context_keys, keys), dim=2)
            values = torch.cat((context_values, values), dim=2)
            hidden = hidden + layer.self_attn.attend(normed, block_rotation, keys, values, mask)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.norm(hidden).view(-1, block, hidden.shape[-1])[:, 1:]

    # --- decoding -------------------------------------------------------------------------------------------------

    def start(self, rows: int, capacity: int) -> DFlashState:
        config, weight = self.config, self.norm.weight
        shape = (rows, config.key_value_heads, capacity, config.head_dim)
        return DFlashState(
            [weight.new_zeros(shape) for _ in self.layers],
            [weight.new_zeros(shape) for _ in self.layers],
            self._rotation(torch.arange(capacity, device=weight.device)[None]),
            weight.new_zeros(rows, 0, config.hidden_size),
            torch.zeros(rows, dtype=torch.long, device=weight.device),
        )

    @torch.no_grad()
    def observe(self, state: DraftState, features: Tensor, tokens: Tensor, counts: Tensor) -> None:
        assert isinstance(state, DFlashState)
        self._consume(state)
        if len(counts) == 1:
            features = features[:, : int(counts)]  # nothing to do for rejected drafts
        state.wait(self._context(features), counts)
        if state.longest == 0:  # a prompt belongs to the prefill, not to the first draft
            self._consume(state)

    def _consume(self, state: DFlashState) -> None:
        """Write what waits without a draft."""
        if not state.waiting.shape[1]:
            return
        positions = state.lengths[:, None] + torch.arange(state.waiting.shape[1], device=state.lengths.device)
        rotation = state.rotation(positions)
        for i, layer in enumerate(self.decoder):
            state.write(i, *layer.self_attn.keys_values(state.waiting, rotation))
        state.settle()

    @torch.no_grad()
    def propose(self, state: DraftState, anchors: Tensor, steps: int, sampler: Sampler) -> Proposal:
        return self.proposal(self.head(self.draft_hidden(state, anchors, steps)), sampler)

    def draft_hidden(self, state: DraftState, anchors: Tensor, steps: int) -> Tensor:
        """Hidden states [rows, steps, H] of the masks. The block's keys go behind the context, unaccounted for."""
        assert isinstance(state, DFlashState)
        block, waiting = 1 + steps, state.waiting.shape[1]
        slots = torch.arange(max(block, waiting), device=anchors.device)
        positions = torch.cat((state.lengths[:, None] + slots[:waiting], state.starts[:, None] + slots[:block]), dim=1)
        cos, sin = state.rotation(positions)
        rotation, of_block = (cos, sin), (cos[:, :, waiting:], sin[:, :, waiting:])
        end = int(state.starts.max()) + block
        mask = None
        if len(anchors) > 1:  # bidirectional: a row's queries all see its context and its block
            mask = (torch.arange(end, device=anchors.device) < state.starts[:, None] + block)[:, None, None, :]
        hidden = self._embed(self._blocks(anchors, steps))
        for i, layer in enumerate(self.decoder):
            normed = layer.input_layernorm(hidden)
            behind = torch.cat((state.waiting, normed), dim=1)
            state.write(i, *layer.self_attn.keys_values(behind, rotation))
            keys, values = state.keys[i][:, :, :end], state.values[i][:, :, :end]
            hidden = hidden + layer.self_attn.attend(normed, of_block, keys, values, mask)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        state.settle()
        return self.norm(hidden[:, 1:])

    # --- on disk ----------------------------------------------------------------------------------------------------

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return cls.architecture in (config.get("architectures") or [])

    @classmethod
    def create(cls, section: DFlashSection, target: Target) -> DFlash:
        if section.init_from is not None:
            drafter = cls.from_pretrained(drafter_directory(section.init_from), target, torch.float32)
            check_start(section, drafter.config)
            return drafter
        layers = None if section.feature_layers == "auto" else section.feature_layers
        check_feature_layers(target, layers or ())
        try:
            return cls.fresh(target, section.layers, section.block_size, layers, section.mask_token)
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
    ) -> DFlash:
        """A new drafter with the target's width, heads and feed-forward size."""
        config = target.config
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1e6)
        heads = int(config.num_attention_heads)
        chosen = DFlashConfig(
            hidden_size=target.hidden_size,
            vocabulary_size=target.vocabulary_size,
            target_layers=len(target.layers),
            feature_layers=default_feature_layers(layers, len(target.layers))
            if feature_layers is None
            else feature_layers,
            mask_token=unused_token(target) if mask_token is None else mask_token,
            layers=layers,
            block_size=block_size,
            heads=heads,
            key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or target.hidden_size // heads),
            intermediate_size=int(config.intermediate_size),  # a mixture of experts: its dense layers' size
            norm_epsilon=float(getattr(config, "rms_norm_eps", 1e-6)),
            rope_theta=float(theta),
            max_positions=target.context_length,
        )
        return cls(chosen, target).to(target.device)

    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if self.vocabulary is not None:
            tensors |= self.vocabulary.tensors()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(self._engine_config(), indent=2) + "\n"
        (directory / "config.json").write_text(text, encoding="utf-8")

    def _engine_config(self) -> dict[str, Any]:
        config = self.config
        reduced = {} if self.vocabulary is None else {"draft_vocab_size": len(self.vocabulary)}
        return {
            "architectures": [self.architecture],
            "model_type": "qwen3",
            "hidden_size": config.hidden_size,
            "vocab_size": config.vocabulary_size,
            "num_hidden_layers": config.layers,
            "num_target_layers": config.target_layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.intermediate_size,
            "rms_norm_eps": config.norm_epsilon,
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "max_position_embeddings": config.max_positions,
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "layer_types": ["full_attention"] * config.layers,
            "block_size": config.block_size,
            "is_causal": False,
            "dflash_config": {
                "mask_token_id": config.mask_token,
                "target_layer_ids": list(config.feature_layers),
            },
            **reduced,
            "dtype": str(self.norm.weight.dtype).removeprefix("torch."),
        }

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> DFlash:
        saved = read_config(directory)
        if saved.get("is_causal") or set(saved.get("layer_types") or ()) - {"full_attention"}:
            raise UserError(f"drafter {directory}: causal or sliding-window DFlash blocks are not supported")
        check_rope(saved, directory)
        try:
            config = DFlashConfig(
                hidden_size=saved["hidden_size"],
                vocabulary_size=saved["vocab_size"],
                target_layers=saved["num_target_layers"],
                feature_layers=tuple(saved["dflash_config"]["target_layer_ids"]),
                mask_token=saved["dflash_config"]["mask_token_id"],
                layers=saved["num_hidden_layers"],
                block_size=saved["block_size"],
                heads=saved["num_attention_heads"],
                key_value_heads=saved["num_key_value_heads"],
                head_dim=saved["head_dim"],
                intermediate_size=saved["intermediate_size"],
                norm_epsilon=saved["rms_norm_eps"],
                rope_theta=saved.get("rope_theta") or saved["rope_parameters"]["rope_theta"],
                max_positions=saved["max_position_embeddings"],
            )
        except KeyError as error:
            raise UserError(f"drafter {directory}: config.json lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"drafter {directory}: config.json does not describe a DFlash drafter: {error}") from None
        drafter = cls(config, target)
        tensors = read_weights(directory, drafter)
        if "d2t" in tensors:
            vocabulary = DraftVocabulary.from_tensors(tensors, config.vocabulary_size, f"drafter {directory}")
            drafter.restrict(vocabulary)
        drafter.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in VOCABULARY_MAPS})
        return drafter.to(device=target.device, dtype=dtype or target.dtype).eval()
