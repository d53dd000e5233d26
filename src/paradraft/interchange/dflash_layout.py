"""DFlash's configuration between the projects that write it: what is written out, and what is understood on import.

Two layouts of a block have the same tensors: in DFlash's own, slot 0 holds the anchor and drafts nothing (*bonus
anchor*); in DeepSpec's, slot 0 drafts too (*sample from anchor*). Read as the other one, a drafter loses nearly all of
its acceptance. Neither that, nor causality inside the block, nor on which side of the final norm the target's last
layer was read can be seen in the tensors; what a configuration leaves open is refused unless the user decides it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..drafters import DFlash
from ..drafters.directory import check_rope
from ..errors import UserError
from . import gguf, speculators, transformers
from .drafter_files import DrafterFiles, engine_config, inside, write_drafter_files
from .layout import PLAIN, Facts, Foreign, Layout, Reader, Understood, Use, Writer, reduced, when
from .target_side import TargetSide, reduced_head

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


def native_config(config: Mapping[str, Any], where: Path, drafter: type[DFlash] = DFlash) -> dict[str, Any]:
    """config.json for engines, from one of ours: of a DFlash drafter as its authors have it, or of one built on it."""
    guessed = {"is_neox_style": True, "use_sliding_window": False, "sliding_window": None, "sample_from_anchor": False}
    found = engine_config(drafter, config, where, **guessed)
    if "dflash_config" in found:
        block = {"block_size": found["block_size"], "causal": False, "sample_from_anchor": False}
        found["dflash_config"] = block | found["dflash_config"]
    return found


# --- what a foreign configuration must say ----------------------------------------------------------------------


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


def check_causality(found: Foreign) -> None:
    said = found.said("is_causal", "causal", "causal_head")
    if any(said) and not all(said):
        found.refuse("it says both that attention inside its block is causal and that it is not")
    if any(found.said("use_swa")):
        found.refuse("it has sliding-window layers, which paradraft's DFlash does not have")


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


def check_rest(found: Foreign, more: Collection[str] = ()) -> None:
    """Everything else that would change what is drafted. `more`: keys of dflash_config that are read."""
    check_rope(found.config, found.where)
    found.check_plain({**PLAIN, "target_hidden_size": (None, found.config.get("hidden_size"))})
    for key, value in found.inner.items():
        if key not in (*UNDERSTOOD, *more) and value not in NEUTRAL.get(key, ()):
            found.refuse(f"{key} {value!r} of its dflash_config is not known to paradraft, which cannot leave it out")
    if (found.where / "mask_embedding.pt").is_file():
        found.refuse("it comes with a mask embedding of its own, which paradraft does not support")


def understood(
    found: Foreign, drafter: type[DFlash] = DFlash, more: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """A foreign configuration as ours; `more`: keys of dflash_config that this kind has besides."""
    notes = [*check_slots(found), *check_features(found)]
    check_causality(found)
    check_rest(found, more)
    own = {"dtype": found.config.get("torch_dtype", "bfloat16"), **found.config}
    own |= {key: found.one(key) for key in ("block_size", "num_target_layers")}
    own["is_causal"] = any(found.said("is_causal", "causal", "causal_head"))
    own["dflash_config"] = {key: found.one(key) for key in ("mask_token_id", "target_layer_ids", *more)}
    return native_config(own, found.where, drafter), notes


def reader(configuration: Understood) -> Reader:
    """A reader of directories, by what it makes of their configuration; the target's matrices are left out."""

    def read(found: Foreign) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
        config, notes = configuration(found)
        tensors = found.without_the_targets("embed_tokens.weight", "lm_head.weight")
        if "d2t" in tensors:
            config["draft_vocab_size"] = len(tensors["d2t"])
            tensors["t2d"] = inside(tensors["d2t"], config["vocab_size"])
        return config, tensors, notes

    return read


def understood_either(found: Foreign) -> tuple[dict[str, Any], list[str]]:
    """Of the authors' layout, or in the speculators format."""
    if speculators.recognised(found.config):
        found = replace(found, config=speculators.read(found))
    return understood(found)


# --- what is written --------------------------------------------------------------------------------------------


def native(source: DrafterFiles, drafter: type[DFlash] = DFlash) -> dict[str, Any]:
    return native_config(source.config, source.directory, drafter)


def write_for_vllm(source: DrafterFiles, config: dict[str, Any], out: Path, side: TargetSide | None) -> list[str]:
    """With a reduced vocabulary, its rows of the target's head go with it."""
    tensors = source.weights
    if source.reduced:
        tensors = tensors | reduced_head(source, side)
        config = config | {"draft_vocab_size": len(source.own["d2t"])}
    write_drafter_files(out, config, tensors)
    return []


def whole_only(why: str, drafter: type[DFlash] = DFlash) -> Writer:
    """A writer of the configuration and our weights that refuses a reduced vocabulary."""

    def write(source: DrafterFiles, out: Path, side: TargetSide | None) -> list[str]:
        if source.reduced:
            raise UserError(why)
        write_drafter_files(out, native(source, drafter), source.weights)
        return []

    return write


GGUF_NAMES = gguf.LAYER | {"fc": "fc", "hidden_norm": "enc.output_norm", "norm": "output_norm"}


def gguf_parts(source: DrafterFiles, target: TargetSide) -> gguf.Parts:
    """With a reduced vocabulary, its rows of the target's head go with it."""
    config = native(source)
    if config["is_causal"]:
        raise UserError("llama.cpp's DFlash lets every slot see its whole block; this drafter's blocks are causal")
    inner = config["dflash_config"]
    fields = gguf.sizes("dflash", config) | {
        "general.name": "DFlash drafter",
        "dflash.attention.causal": False,
        "dflash.block_size": config["block_size"],
        "dflash.sample_from_anchor": False,
        "dflash.target_layers": [i + 1 for i in inner["target_layer_ids"]],
        "tokenizer.ggml.mask_token_id": inner["mask_token_id"],
    }
    tensors = {gguf.gguf_name(name, GGUF_NAMES): tensor for name, tensor in source.weights.items()}
    if source.reduced:
        ids = source.draft_ids()
        tensors |= {"d2t": ids, "output.weight": target.head_rows(ids, tensors["fc.weight"])}
    return gguf.Parts("dflash", fields, tensors, config["vocab_size"])


# --- what engines read ------------------------------------------------------------------------------------------


def mask(config: Mapping[str, Any]) -> int | None:
    found: int | None = (config.get("dflash_config") or {}).get("mask_token_id")
    return found


def mask_clashes(facts: Facts) -> str:
    own, theirs = mask(facts.config), facts.mask_of_target
    if theirs in (None, own):
        return ""
    return f"its mask token {own} is not the tokenizer's own, {theirs}, which SGLang would use"


def last_layer(facts: Facts) -> bool:
    """Whether it reads the target's last layer."""
    layers = (facts.config.get("dflash_config") or {}).get("target_layer_ids") or [-1]
    return bool(max(layers) == facts.config.get("num_target_layers", 0) - 1)


WHOLE_HEAD = when(reduced, "it uses the target's whole head; this drafter has a reduced vocabulary")
CAUSAL = when(
    lambda facts: bool(facts.config.get("is_causal")),
    "it lets every slot of a block see the others; this drafter's blocks are causal",
)
AFTER_THE_NORM = when(
    last_layer, "it sees the target's last layer after the final norm, this drafter learned it before"
)
LAST_LAYER = when(last_layer, "reads the target's last layer: whether this engine can give it was not checked")
KEY_NORM = when(
    lambda facts: facts.config.get("num_hidden_layers", 1) >= 2,
    "on a CPU it uses the first drafter layer's key norm in all layers: acceptance differs slightly, output not",
)
TRITON = when(lambda facts: True, "drafts on a GPU only (Triton); the code was read, not run")

LAYOUT = Layout(
    reader(understood_either),
    write={
        "vllm": lambda source, out, side: write_for_vllm(source, native(source), out, side),
        "sglang": whole_only(
            "SGLang 0.5.23 gives DFlash the target's whole head; a reduced draft vocabulary does not work there: "
            "export --to speculators and serve with vLLM, or train without drafter.vocabulary",
        ),
        "speculators": lambda source, out, side: speculators.write(source, native(source), out, side),
        "gguf": gguf.writer(gguf_parts),
        "transformers": lambda source, out, side: transformers.write(source, native(source), out),
        "published": whole_only("DFlash's authors publish no reduced draft vocabulary; export --to speculators"),
    },
    engines={
        "vllm": Use("speculators", where=reduced, remarks=(KEY_NORM,)),
        "sglang": Use(reasons=(WHOLE_HEAD, mask_clashes)),
        "llama.cpp": Use("gguf", reasons=(CAUSAL,), remarks=(LAST_LAYER,)),
        "transformers": Use("transformers", reasons=(CAUSAL, WHOLE_HEAD, AFTER_THE_NORM)),
    },
    vllm={"method": "dflash"},
    sglang="DFLASH",
    mask=mask,
)
