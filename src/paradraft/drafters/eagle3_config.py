"""The sizes of an EAGLE-3 drafter: chosen for a fresh one, and in config.json as vLLM and SGLang read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .layer_config import LayerConfig

DRAFT_LENGTH = 7  # of a directory that does not say: the steps that published drafters are trained with
LAYER_KEY = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True, kw_only=True)
class Eagle3Config(LayerConfig):
    """norm_before_residual: the layer adds to its normed input instead of the input itself; some published ones do."""

    called: ClassVar[str] = "an EAGLE-3 drafter"

    draft_length: int = DRAFT_LENGTH
    norm_before_residual: bool = False

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        return (*super().size_names(), "draft_length")

    def saved(self) -> dict[str, Any]:
        """The fields of config.json. Both counts of layers are written: vLLM reads the first, SGLang the second."""
        ids = list(self.feature_layers)
        return {
            "model_type": "llama",
            "num_hidden_layers": 1,
            **self.saved_sizes(),
            "target_hidden_size": self.hidden_size,
            "draft_vocab_size": self.vocabulary_size,
            **self.saved_rope(),
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
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        if saved["num_hidden_layers"] != 1:
            raise ValueError(f"it has {saved['num_hidden_layers']} layers, EAGLE-3 has one")
        return {
            "feature_layers": tuple(i - 1 for i in saved[LAYER_KEY]),
            "draft_length": (saved.get("paradraft") or {}).get("draft_length", DRAFT_LENGTH),
            "norm_before_residual": bool(saved.get("norm_before_residual")),
        }


def published_layers(target_layers: int) -> tuple[int, ...]:
    """Hidden states 2, N // 2 and N - 3 of Transformers' counting, layers 1, N // 2 - 1 and N - 4; fewer if shallow."""
    most = max(0, target_layers - 2)
    return tuple(sorted({min(max(i, 0), most) for i in (1, target_layers // 2 - 1, target_layers - 4)}))
