"""PARD-2 (arXiv 2605.08632): PARD whose inputs carry the target's features, so that one drafter works in two modes.

The input at position t is its embedding plus scale * proj(features of t - 1); the first token gets no such term. All
masks of a draft get the term of its newest token. *Dependent* mode adds the term, *independent* mode leaves it out. One
drafter learns both, because training leaves it out for whole sequences at random.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UserError, first_line
from ..models import Target
from ..models.attention import document_positions
from ..models.names import drafter_directory
from .base import check_start
from .directory import check_feature_layers, read_config
from .grid import Batch, Grid
from .language_model import load_language_model, own_settings
from .language_model_start import starting_model
from .pard import ParallelSection, Pard, mask_of, saved_mask

PUBLISHED_LAYERS = (-1, -8, -16, -24)  # of Transformers' hidden_states
PUBLISHED_SCALE = 0.02
SCALE_TOKENS = 64  # on which the sizes of features and embeddings are measured
PROJECTION = Path("pard2") / "target_proj.safetensors"  # in a folder: engines load every safetensors file beside it
PUBLISHED_PROJECTION = "warp_model.bin"
DROPOUT_STREAM = 0xD0  # keeps these draws apart from the anchors' and COD's, which share the row's seed

log = logging.getLogger(__name__)


class Pard2Section(ParallelSection):
    kind: Literal["pard2"] = "pard2"
    feature_layers: Literal["auto"] | tuple[int, ...] = Field(
        "auto",
        description="0-based target layers whose outputs are read, never the last; auto: over the depth, as published",
    )
    feature_scale: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="factor of the projected features; auto: makes features as large as the embeddings are"
    )
    feature_dropout: float = Field(0.1, ge=0, le=1, description="share of sequences trained without features")


class Pard2(Pard):
    kind = "pard2"
    section = Pard2Section
    modes: tuple[str, ...] = ("dependent", "independent")

    def __init__(
        self,
        model: PreTrainedModel,
        target: Target,
        max_draft: int,
        mask_token: int,
        feature_layers: tuple[int, ...],
        feature_width: int,
        scale: float = PUBLISHED_SCALE,
        feature_dropout: float = 0.1,
        cod_ratio: float = 0.7,
        cod_least: float = 0.1,
        share_embedding: bool = False,
    ) -> None:
        super().__init__(model, target, max_draft, mask_token, cod_ratio, cod_least, share_embedding)
        self.dependent_layers = self.feature_layers = feature_layers
        self.scale, self.feature_dropout = scale, feature_dropout
        self.target_proj = nn.Linear(feature_width, self.embedding.embedding_dim, bias=False)
        nn.init.zeros_(self.target_proj.weight)  # so that both modes start from the language model as it is

    def set_mode(self, mode: str) -> None:
        super().set_mode(mode)
        self.feature_layers = self.dependent_layers if mode == "dependent" else ()

    def inputs(self, tokens: Tensor, previous: Tensor) -> Tensor:
        embedded = self.embed(tokens)
        if self.mode == "independent":
            return embedded
        return embedded + self.scale * self.target_proj(previous.to(self.target_proj.weight.dtype))

    # --- training -------------------------------------------------------------------------------------------------

    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        draws = [float(torch.rand((), generator=torch.Generator().manual_seed(s ^ DROPOUT_STREAM))) for s in seeds]
        keep = torch.tensor(draws, device=batch.input_ids.device) >= self.feature_dropout
        return replace(super().grid(batch, anchors, seeds), keep_features=keep)

    def previous_features(self, grid: Grid, features: Tensor) -> Tensor:
        """Features of the position before, [B, S, F]: zero at a document's start and in rows trained without them."""
        first = document_positions(grid.batch.document_ids) == 0
        unseen = first if grid.keep_features is None else first | ~grid.keep_features[:, None]
        return torch.where(unseen[..., None], 0.0, features.roll(1, dims=1))

    # --- on disk ----------------------------------------------------------------------------------------------------

    def engine_config(self) -> dict[str, Any]:
        return {
            **super().engine_config(),
            "pard2": True,
            "spd_type": "pard2",
            "pard2_scale": self.scale,
            "pard2_proj_bias": False,
            "pard2_target_dim": self.target_proj.in_features,
            "pard2_target_layers": published_layers(self.dependent_layers, len(self.target.layers)),
        }

    def own_config(self) -> dict[str, Any]:
        return {**super().own_config(), "feature_dropout": self.feature_dropout}

    def save_pretrained(self, directory: Path) -> None:
        super().save_pretrained(directory)
        (directory / PROJECTION).parent.mkdir(exist_ok=True)
        weight = self.target_proj.weight.detach().cpu().contiguous()
        save_file({"target_proj.weight": weight}, directory / PROJECTION)

    @classmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        return "pard_token" in config and bool(config.get("pard2"))

    @classmethod
    def create(cls, section: Pard2Section, target: Target) -> Pard2:
        """Projection, layers and scale come from `init_from` if that is a PARD-2 drafter, all else from the section."""
        start = None if section.init_from in (None, "target") else drafter_directory(section.init_from)
        if start is not None and read_config(start).get("pard2"):
            drafter = cls.from_pretrained(start, target, torch.float32)
            check_started(section, drafter)
            drafter.max_draft, drafter.feature_dropout = section.draft_length, section.feature_dropout
            drafter.cod_ratio, drafter.cod_least = section.cod_ratio, section.cod_least
            return drafter
        count = len(target.layers)
        layers = default_layers(count) if section.feature_layers == "auto" else section.feature_layers
        check_feature_layers(target, layers)
        published_layers(layers, count)
        model = starting_model(section, target)
        embedding = target.embedding if section.share_embedding else model.get_input_embeddings()
        scale = section.feature_scale
        if scale == "auto":
            scale = balanced_scale(target, layers, embedding)
        return cls(
            model,
            target,
            section.draft_length,
            mask_of(section, model, target),
            layers,
            len(layers) * target.hidden_size,
            scale,
            section.feature_dropout,
            section.cod_ratio,
            section.cod_least,
            section.share_embedding,
        ).to(target.device)

    @classmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Pard2:
        """If the target's features do not fit the projection, warns and offers independent mode only."""
        config, own = read_config(directory), own_settings(directory)
        if config.get("pard2_proj_bias"):
            raise UserError(f"drafter {directory}: a feature projection with a bias is not supported")
        scale = config.get("pard2_scale", PUBLISHED_SCALE)
        if not isinstance(scale, int | float):
            raise UserError(f"drafter {directory}: pard2_scale in config.json must be a number, not {scale!r}")
        weight = read_projection(directory)
        count, listed = len(target.layers), config.get("pard2_target_layers", list(PUBLISHED_LAYERS))
        if not isinstance(listed, list) or not all(isinstance(i, int) for i in listed):
            raise UserError(f"drafter {directory}: pard2_target_layers in config.json must be a list of numbers")
        fits = len(listed) * target.hidden_size == weight.shape[1] and all(-count <= i <= -1 for i in listed)
        drafter = cls(
            load_language_model(directory, target, dtype),
            target,
            cls.trained_length(config),
            saved_mask(directory),
            tuple(layer_id(i, count) for i in listed) if fits else (),
            weight.shape[1],
            scale,
            float(own.get("feature_dropout", 0.1)),
            float(own.get("cod_ratio", 0.7)),
            float(own.get("cod_least", 0.1)),
            bool(own.get("share_embedding")),
        )
        drafter.take_own_tensors(directory)
        if weight.shape[0] != drafter.target_proj.out_features:
            raise UserError(
                f"drafter {directory}: its feature projection has width {weight.shape[0]}, its language model "
                f"{drafter.target_proj.out_features}"
            )
        drafter.target_proj.weight.data = weight.to(drafter.embedding.weight)
        if not fits:
            log.warning(
                "drafter %s reads %d features, of hidden states %s; target %s has %d layers of width %d: drafting "
                "without features (independent mode)",
                *(directory, weight.shape[1], listed, target.name, count, target.hidden_size),
            )
            drafter.modes = ("independent",)
            drafter.set_mode("independent")
        return drafter.to(target.device).eval()


@torch.no_grad()
def balanced_scale(target: Target, layers: tuple[int, ...], embedding: nn.Module) -> float:
    """How many times as large as features a drafter's embeddings are: root mean squares, medians over random tokens.

    A term that is much larger than the embeddings drowns the tokens. A trained projection keeps about the size of what
    it projects. PUBLISHED_SCALE for a target without weights.
    """
    if target.embedding.weight.is_meta:
        return PUBLISHED_SCALE
    draws = torch.randint(target.vocabulary_size, (1, SCALE_TOKENS), generator=torch.Generator().manual_seed(0))
    tokens = draws.to(target.device)
    embeddings, features = embedding(tokens), target.features(tokens, torch.zeros_like(tokens), layers)
    large, small = (x.float().square().mean(-1).sqrt().median() for x in (features, embeddings))
    return float(f"{float(small / large):.2g}")


def check_started(section: Pard2Section, drafter: Pard2) -> None:
    """UserError if the section asks for something else than the PARD-2 drafter has that training starts from."""
    if "dependent" not in drafter.modes:
        raise UserError(f"drafter.init_from {section.init_from} reads features of another target; start from another")
    config = drafter.model.config.get_text_config()
    found: dict[str, object] = {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "feature_layers": drafter.dependent_layers,
        "feature_scale": drafter.scale,
        "mask_token": drafter.mask_token,
    }
    if "share_embedding" in section.model_fields_set:
        found["share_embedding"] = drafter.shares_embedding
    check_start(section, found)


def layer_id(published: int, target_layers: int) -> int:
    """-1 of Transformers' hidden_states is the output after the final norm, id N here; -i is layer N - i."""
    return target_layers if published == -1 else target_layers + published


def published_layers(layers: Sequence[int], target_layers: int) -> list[int]:
    if not layers:
        raise UserError(
            "drafter.feature_layers is empty, but PARD-2 reads features; name some layers, or use kind: pard"
        )
    if target_layers - 1 in layers:
        raise UserError(
            f"feature layer {target_layers - 1} is the last layer before the final norm, which PARD-2's format cannot "
            f"name; use {target_layers} (after the norm) or an earlier layer"
        )
    return [-1 if i == target_layers else i - target_layers for i in layers]


def default_layers(target_layers: int) -> tuple[int, ...]:
    """The published layers, but hidden state -4 in place of the last; of a shallow target, four layers over its depth.

    No layer after N - 3 is read.
    """
    if target_layers >= -min(PUBLISHED_LAYERS):
        return tuple(layer_id(i, target_layers) for i in (-4, *PUBLISHED_LAYERS[1:]))
    ids = [max(0, target_layers - 3), *(round(target_layers * share) - 1 for share in (0.75, 0.5, 0.25))]
    return tuple(sorted({min(max(i, 0), max(0, target_layers - 3)) for i in ids}, reverse=True))


def read_projection(directory: Path) -> Tensor:
    """target_proj.weight [H_draft, features], from our file or from the published one (weights only)."""
    try:
        if (directory / PROJECTION).is_file():
            tensors = load_file(directory / PROJECTION)
        else:
            tensors = torch.load(directory / PUBLISHED_PROJECTION, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"drafter {directory}: config.json says PARD-2, but there is no {PROJECTION} and no {PUBLISHED_PROJECTION}"
        ) from None
    except Exception as error:  # of safetensors, pickle, zip and key lookups
        first = first_line(error)
        raise UserError(f"drafter {directory}: its feature projection cannot be read: {first}") from None
    weight = tensors.get("target_proj.weight") if isinstance(tensors, dict) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or len(tensors) != 1:
        raise UserError(f"drafter {directory}: its feature projection must be one matrix, target_proj.weight")
    return weight
