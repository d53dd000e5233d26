"""DFlash's configuration between the projects that write it: what is written out, and what is understood on import.

Two layouts of a block have the same tensors: in DFlash's own, slot 0 holds the anchor and drafts nothing (*bonus
anchor*); in DeepSpec's, slot 0 drafts too (*sample from anchor*). Read as the other one, a drafter loses nearly all of
its acceptance. Neither that, nor causality inside the block, nor on which side of the final norm the target's last
layer was read can be seen in the tensors; what a configuration leaves open is refused unless the user decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..drafters.directory import check_rope
from ..errors import UserError
from .drafter_files import only

ASSUMPTIONS = {
    "bonus-anchor": "slot 0 of a block is the anchor and drafts nothing",
    "last-layer-before-norm": "features of the target's last layer were taken before its final norm",
    "layer-outputs": "the layer ids in eagle_config count layer outputs from 0, as SGLang reads them",
}
SIZES = (
    *("hidden_size", "vocab_size", "num_hidden_layers", "num_target_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "intermediate_size", "rms_norm_eps", "max_position_embeddings"),
)
DEEPSPEC = ("num_anchors", "markov_rank", "markov_head_type", "enable_confidence_head")
NEUTRAL: dict[str, tuple[Any, ...]] = {  # of dflash_config: what changes nothing; a key that is not here is refused
    "use_swa": (None, False),
    "swa_window_size": (None,),
    "output_multiplier": (None, 1),
    "input_embedding_scale": (None, 1),
    "final_logit_softcapping": (None, 0),
    "attention_sink_bias": (None, False),
    "attention_value_scale": (None, 1),
    "projector_type": (None, "dflash"),
    "shift_label": (None, False),
    "use_aux_hidden_state": (None, True),
    "conv_kernel_size": (None, 0),
    "conv_group_size": (None, 0),
    "selector_rank": (None, 0),
    "selector_top_k": (None, 0),
}
UNDERSTOOD = (
    *("mask_token_id", "mask_token", "target_layer_ids", "block_size", "num_target_layers"),
    *("causal", "causal_head", "sample_from_anchor"),
)


def native_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """config.json of DFlash's authors, from one of ours: only known fields, all that a reader might guess explicit."""
    inner = config["dflash_config"]
    layers, theta, causal = config["num_hidden_layers"], rope_theta(config), bool(config.get("is_causal"))
    return {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        **only(config, SIZES, where),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_scaling": None,
        "is_neox_style": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "layer_types": ["full_attention"] * layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "block_size": config["block_size"],
        "is_causal": causal,
        "sample_from_anchor": False,
        "dflash_config": {
            "mask_token_id": inner["mask_token_id"],
            "target_layer_ids": sorted(set(inner["target_layer_ids"])),
            "block_size": config["block_size"],
            "causal": causal,
            **({"causal_head": True} if causal else {}),  # JetSpec's own name for it
            "sample_from_anchor": False,
        },
        "dtype": config["dtype"],
    }


def rope_theta(config: Mapping[str, Any]) -> float:
    """RoPE's base, at top level or in rope_parameters."""
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {})["rope_theta"])


# --- what a foreign configuration must say ----------------------------------------------------------------------


@dataclass(frozen=True)
class Foreign:
    """A drafter's configuration that another project wrote; `assume`: what the user decided."""

    config: Mapping[str, Any]
    where: Path
    assume: Collection[str]

    @property
    def inner(self) -> Mapping[str, Any]:
        return self.config.get("dflash_config") or {}

    def said(self, *keys: str) -> list[Any]:
        """The values that these keys have, at top level or in dflash_config."""
        found = (part.get(key) for part in (self.config, self.inner) for key in keys)
        return [value for value in found if value is not None]

    def one(self, key: str) -> Any:
        """The value of a key that may stand in both places."""
        values = self.said(key)
        if not values:
            raise UserError(f"drafter {self.where}: config.json lacks {key}")
        if any(value != values[0] for value in values):
            raise UserError(f"drafter {self.where}: config.json gives {key} twice, as {values[0]} and {values[1]}")
        return values[0]

    def refuse(self, what: str, assumption: str = "") -> None:
        """Raise, unless the user has decided it."""
        if assumption in self.assume:
            return
        hint = f"; if you know that {ASSUMPTIONS[assumption]}, add --assume {assumption}" if assumption else ""
        raise UserError(f"drafter {self.where}: {what}{hint}")


def check_slots(found: Foreign) -> list[str]:
    if any(found.said("sample_from_anchor")) or any(found.said("shift_label", "draft_shift")):
        found.refuse(
            "its block samples from the anchor, a layout that paradraft has for DSpark only; train a drafter here"
        )
    if found.said("sample_from_anchor"):
        return []
    if found.said(*DEEPSPEC) or not found.inner.get("target_layer_ids"):
        found.refuse(
            "it does not say whether slot 0 of a block drafts (sample_from_anchor), and its configuration is not in "
            "the form of DFlash's authors, where it never does",
            "bonus-anchor",
        )
    return ["it does not declare its slot layout; its configuration is DFlash's own, so slot 0 drafts nothing"]


def check_causality(found: Foreign) -> list[str]:
    said = found.said("is_causal", "causal", "causal_head")
    if any(said) and not all(said):
        found.refuse("it says both that attention inside its block is causal and that it is not")
    if set(found.config.get("layer_types") or ()) - {"full_attention"} or any(found.said("use_swa")):
        found.refuse("it has sliding-window layers, which paradraft's DFlash does not have")
    return []


def check_features(found: Foreign) -> list[str]:
    layers, count = found.one("target_layer_ids"), found.one("num_target_layers")
    if not isinstance(layers, list) or not all(isinstance(i, int) for i in (*layers, count)):
        found.refuse("target_layer_ids must be a list of numbers, num_target_layers a number")
    if layers != sorted(set(layers)):
        found.refuse(
            f"its feature layers {layers} are not ascending: engines sort them, Transformers does not, and which of "
            "the two it was trained with cannot be seen"
        )
    if not layers or layers[0] < 0 or layers[-1] >= count:
        found.refuse(f"its feature layers {layers} are not those of a target with {count} layers")
    if layers[-1] == count - 1:
        found.refuse(
            f"it reads the target's last layer ({count - 1}), which engines give before the final norm and "
            "Transformers after it; which of the two it was trained with cannot be seen",
            "last-layer-before-norm",
        )
        return ["it reads the target's last layer before the final norm: Transformers' loops give it after the norm"]
    return []


def check_rest(found: Foreign) -> list[str]:
    """Everything else that would change what is drafted."""
    check_rope(found.config, found.where)
    config = found.config
    wrong = {
        "attention_bias": config.get("attention_bias") not in (None, False),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "target_hidden_size": config.get("target_hidden_size") not in (None, config.get("hidden_size")),
        "quantization_config": config.get("quantization_config") is not None,
        "logit_scale": config.get("logit_scale") not in (None, 1),
    }
    for key, foreign in wrong.items():
        if foreign:
            found.refuse(f"{key} {config[key]!r} of its config.json is not supported")
    for key, value in found.inner.items():
        if key not in UNDERSTOOD and value not in NEUTRAL.get(key, ()):
            found.refuse(f"{key} {value!r} of its dflash_config is not known to paradraft, which cannot leave it out")
    if (found.where / "mask_embedding.pt").is_file():
        found.refuse("it comes with a mask embedding of its own, which paradraft does not support")
    return []


CHECKS: tuple[Callable[[Foreign], list[str]], ...] = (check_slots, check_causality, check_features, check_rest)


def understood(config: Mapping[str, Any], where: Path, assume: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours, and what the user should know; what it leaves open is refused."""
    found = Foreign(config, where, assume)
    notes = [note for check in CHECKS for note in check(found)]
    own = {**config, "block_size": found.one("block_size"), "num_target_layers": found.one("num_target_layers")}
    own["is_causal"] = any(found.said("is_causal", "causal", "causal_head"))
    own["dflash_config"] = {key: found.one(key) for key in ("mask_token_id", "target_layer_ids")}
    own.setdefault("dtype", config.get("torch_dtype", "bfloat16"))
    return native_config(own, where), notes
