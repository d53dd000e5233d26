"""The sizes of a DFlash drafter: chosen for a fresh one, and in config.json as vLLM and SGLang read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from ..errors import UserError
from ..models import Target
from .directory import unused_token
from .layer_config import SIZES_SAVED_AS, LayerConfig


@dataclass(frozen=True, kw_only=True)
class DFlashConfig(LayerConfig):
    """Sizes of the drafter, and how its block works.

    causal: a slot sees those before it in its block, not those behind (JetSpec). sample_from_anchor: slot 0, which
    holds the anchor's token, drafts too (DSpark); else it drafts nothing.
    """

    saved_as: ClassVar[Mapping[str, str]] = SIZES_SAVED_AS | {
        "target_layers": "num_target_layers",
        "layers": "num_hidden_layers",
        "block_size": "block_size",
    }
    called: ClassVar[str] = "a DFlash drafter"

    target_layers: int
    mask_token: int
    layers: int
    block_size: int
    causal: bool = False
    sample_from_anchor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 2 - self.sample_from_anchor:
            raise ValueError("block_size must be at least 2: the anchor and a draft")
        if not isinstance(self.mask_token, int):
            raise ValueError(f"the mask token must be a token's number, not {self.mask_token!r}")

    @property
    def unused_slots(self) -> int:
        """How many slots of a block draft nothing."""
        return 0 if self.sample_from_anchor else 1

    @classmethod
    def of_target(
        cls,
        target: Target,
        layers: int,
        block_size: int,
        feature_layers: tuple[int, ...] | None = None,
        mask_token: int | None = None,
        **more: Any,
    ) -> Self:
        """The target's width, heads and feed-forward size; feature layers and mask as published unless given.

        `more`: other fields.
        """
        count = len(target.layers)
        return cls.like_target(
            target,
            target_layers=count,
            feature_layers=default_feature_layers(layers, count) if feature_layers is None else feature_layers,
            mask_token=unused_token(target) if mask_token is None else mask_token,
            layers=layers,
            block_size=block_size,
            **more,
        )

    def saved(self) -> dict[str, Any]:
        """The fields of config.json. Nothing is left to defaults, because engines differ in them."""
        return {
            "model_type": "qwen3",
            **self.saved_sizes(),
            **self.saved_rope(),
            "hidden_act": "silu",
            "attention_bias": False,
            "tie_word_embeddings": False,
            "layer_types": ["full_attention"] * self.layers,
            "is_causal": self.causal,
            "dflash_config": {
                "mask_token_id": self.mask_token,
                "target_layer_ids": list(self.feature_layers),
                **({"causal": True, "causal_head": True} if self.causal else {}),
            },
        }

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], directory: Path) -> Self:
        if set(saved.get("layer_types") or ()) - {"full_attention"}:
            raise UserError(f"drafter {directory}: sliding-window DFlash blocks are not supported")
        return super().from_saved(saved, directory)

    @classmethod
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        inner = saved["dflash_config"]
        if saved.get("sample_from_anchor") or inner.get("sample_from_anchor"):
            raise ValueError("its slot 0 drafts (sample_from_anchor), which only DSpark's does here")
        return {
            "feature_layers": tuple(inner["target_layer_ids"]),
            "mask_token": inner["mask_token_id"],
            "causal": bool(saved.get("is_causal") or inner.get("causal") or inner.get("causal_head")),
        }


def block_size_of(config: Mapping[str, Any]) -> int:
    """Of a config.json, which may have it in `dflash_config` alone."""
    found = config.get("block_size") or (config.get("dflash_config") or {}).get("block_size")
    if not isinstance(found, int):
        raise UserError("the drafter's config.json lacks block_size; copy the whole directory")
    return found


def default_feature_layers(drafter_layers: int, target_layers: int) -> tuple[int, ...]:
    """n ids evenly spaced from 1 to N - 3 inclusive, rounded; a single one is N // 2."""
    if drafter_layers == 1:
        return (target_layers // 2,)
    span = max(0, target_layers - 4)
    ids = {min(round(1 + i * span / (drafter_layers - 1)), max(0, target_layers - 2)) for i in range(drafter_layers)}
    return tuple(sorted(ids))
