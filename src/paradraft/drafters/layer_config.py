"""The sizes of drafters that read the target's features in layers of their own, and their fields in config.json."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from ..errors import UserError
from ..models import Target
from .directory import check_rope

# By our names, and as config.json has them.
SIZES_SAVED_AS = {
    "hidden_size": "hidden_size",
    "vocabulary_size": "vocab_size",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}


@dataclass(frozen=True, kw_only=True)
class LayerConfig(ABC):
    """`hidden_size` and `vocabulary_size` are the target's.

    `saved_as`: sizes by our names and those of config.json. `called`: a drafter of this kind, in error messages.
    """

    saved_as: ClassVar[Mapping[str, str]] = SIZES_SAVED_AS
    called: ClassVar[str]

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

    def __post_init__(self) -> None:
        for name in self.size_names():
            value = getattr(self, name)
            kind = float if name in ("norm_epsilon", "rope_theta") else int
            if not isinstance(value, int | kind) or value <= 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        ids = list(self.feature_layers)
        if not ids or not all(isinstance(i, int) for i in ids) or ids != sorted(set(ids)):
            raise ValueError(f"feature layers must be ascending ids without repeats (engines sort them), not {ids}")

    @classmethod
    def size_names(cls) -> tuple[str, ...]:
        """The fields that must be positive numbers."""
        return (*cls.saved_as, "rope_theta")

    @classmethod
    def like_target(cls, target: Target, **own: Any) -> Self:
        """The target's width, heads and feed-forward size, its rotary base and its longest context; `own`: the rest."""
        config = target.config
        heads = int(config.num_attention_heads)
        sizes = {
            "hidden_size": target.hidden_size,
            "vocabulary_size": target.vocabulary_size,
            "heads": heads,
            "key_value_heads": int(getattr(config, "num_key_value_heads", None) or heads),
            "head_dim": int(getattr(config, "head_dim", None) or target.hidden_size // heads),
            "intermediate_size": int(config.intermediate_size),  # a mixture of experts: its dense layers' size
            "norm_epsilon": float(getattr(config, "rms_norm_eps", 1e-6)),
            "rope_theta": float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1e6)),
            "max_positions": target.context_length,
        }
        return cls(**{**sizes, **own})

    def saved_sizes(self) -> dict[str, Any]:
        return {theirs: getattr(self, ours) for ours, theirs in self.saved_as.items()}

    def saved_rope(self) -> dict[str, Any]:
        """In both places, because engines differ in where they look."""
        return {
            "rope_theta": float(self.rope_theta),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(self.rope_theta)},
        }

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], directory: Path) -> Self:
        """Read from the fields of config.json; `directory` is named in errors."""
        check_rope(saved, directory)
        try:
            return cls(
                **{ours: saved[theirs] for ours, theirs in cls.saved_as.items()},
                rope_theta=saved.get("rope_theta") or saved["rope_parameters"]["rope_theta"],
                **cls.own_fields(saved),
            )
        except KeyError as error:
            raise UserError(f"drafter {directory}: config.json lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"drafter {directory}: config.json does not describe {cls.called}: {error}") from None

    @classmethod
    @abstractmethod
    def own_fields(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Of config.json, what is not a size. Raises KeyError, TypeError or ValueError."""
