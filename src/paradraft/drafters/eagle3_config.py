"""The sizes of an EAGLE-3 drafter: chosen for a fresh one, and in config.json as vLLM and SGLang read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models import Target
from .directory import check_rope
from .layers import SIZES_SAVED_AS, check_sizes, sizes_of

DRAFT_LENGTH = 7  # of a directory that does not say: the steps that published drafters are trained with
LAYER_KEY = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True)
class Eagle3Config:
    """Sizes of the drafter; `hidden_size` and `vocabulary_size` are the target's.

    norm_before_residual: the layer adds to its normed input instead of the input itself; some published drafters do.
    """

    hidden_size: int
    vocabulary_size: int
    feature_layers: tuple[int, ...]
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate_size: int
    norm_epsilon: float
    rope_theta: float
    max_positions: int
    draft_length: int = DRAFT_LENGTH
    norm_before_residual: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, (*SIZES_SAVED_AS, "rope_theta", "draft_length"))
        ids = list(self.feature_layers)
        if not ids or not all(isinstance(i, int) for i in ids) or ids != sorted(set(ids)):
            raise ValueError(f"feature layers must be ascending ids without repeats (engines sort them), not {ids}")

    @classmethod
    def of_target(cls, target: Target, feature_layers: tuple[int, ...], draft_length: int) -> Eagle3Config:
        """The target's width, heads and feed-forward size."""
        return cls(
            hidden_size=target.hidden_size,
            vocabulary_size=target.vocabulary_size,
            feature_layers=feature_layers,
            draft_length=draft_length,
            **sizes_of(target),
        )

    def saved(self) -> dict[str, Any]:
        """The fields of config.json. Both counts of layers are written: vLLM reads the first, SGLang the second."""
        ids = list(self.feature_layers)
        return {
            "model_type": "llama",
            "num_hidden_layers": 1,
            **{theirs: getattr(self, ours) for ours, theirs in SIZES_SAVED_AS.items()},
            "target_hidden_size": self.hidden_size,
            "draft_vocab_size": self.vocabulary_size,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "norm_before_residual": self.norm_before_residual,
            LAYER_KEY: [i + 1 for i in ids],  # of Transformers' hidden_states
            "eagle_config": {LAYER_KEY: ids, "use_aux_hidden_state": True},
            "paradraft": {"draft_length": self.draft_length},
        }

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], directory: Path) -> Eagle3Config:
        """Read from the fields of config.json; `directory` is named in errors."""
        check_rope(saved, directory)
        try:
            if saved["num_hidden_layers"] != 1:
                raise ValueError(f"it has {saved['num_hidden_layers']} layers, EAGLE-3 has one")
            return cls(
                **{ours: saved[theirs] for ours, theirs in SIZES_SAVED_AS.items()},
                feature_layers=tuple(i - 1 for i in saved[LAYER_KEY]),
                rope_theta=saved.get("rope_theta") or saved["rope_parameters"]["rope_theta"],
                draft_length=(saved.get("paradraft") or {}).get("draft_length", DRAFT_LENGTH),
                norm_before_residual=bool(saved.get("norm_before_residual")),
            )
        except KeyError as error:
            raise UserError(f"drafter {directory}: config.json lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"drafter {directory}: config.json does not describe an EAGLE-3 drafter: {error}") from None


def published_layers(target_layers: int) -> tuple[int, ...]:
    """Hidden states 2, N // 2 and N - 3 of Transformers' counting, layers 1, N // 2 - 1 and N - 4; fewer if shallow."""
    most = max(0, target_layers - 2)
    return tuple(sorted({min(max(i, 0), most) for i in (1, target_layers // 2 - 1, target_layers - 4)}))
