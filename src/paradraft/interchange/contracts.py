"""Which engine reads a drafter, and why another does not: each engine's contract as data and small functions.

A contract is checked on config.json of both sides; no weights are read. `checked` says whether this project has run the
engine or only read its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..drafters import DRAFTERS, kind_of
from ..drafters.directory import read_config
from ..drafters.eagle3_config import LAYER_KEY
from ..drafters.language_model import OWN_TENSORS
from ..models.names import drafter_directory, found_target
from .gguf_layouts import EAGLE3_LAYERS


@dataclass(frozen=True)
class Facts:
    """A drafter and its target, as far as their configurations say. `target` is empty where none was given."""

    kind: str
    config: Mapping[str, Any]
    tensors: frozenset[str]
    target: Mapping[str, Any]
    mask_of_target: int | None = None

    @property
    def bound(self) -> bool:
        """Whether it has the target's width and embedding."""
        return DRAFTERS[self.kind].bound

    @property
    def length(self) -> int:
        return DRAFTERS[self.kind].trained_length(self.config)

    @property
    def reduced(self) -> bool:
        return "d2t" in self.tensors

    @property
    def shared(self) -> bool:
        return bool((self.config.get("paradraft") or {}).get("share_embedding"))

    @property
    def mask(self) -> int | None:
        inner = self.config.get("dflash_config") or {}
        own = self.config.get("mask_token_id") if self.kind == "dspark" else None
        return inner.get("mask_token_id", self.config.get("pard_token", own))

    @property
    def last_layer(self) -> bool:
        """Whether DFlash reads the target's last layer."""
        layers = (self.config.get("dflash_config") or {}).get("target_layer_ids") or [-1]
        return bool(max(layers) == self.config.get("num_target_layers", 0) - 1)


Reason = Callable[[Facts], str]
"""Why not, or an empty string."""


@dataclass(frozen=True)
class Contract:
    """One engine: which `--to` each kind of drafter needs ("": the directory as it is), and what rules one out."""

    engine: str
    checked: str
    formats: Mapping[str, str]
    absent: Mapping[str, str]
    reasons: tuple[Reason, ...]
    remarks: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """reads: whether the engine will; `why` not, or what to mind; `how` it gets the drafter; `checked`: run or read."""

    engine: str
    reads: bool
    why: str
    how: str
    checked: str


# --- reasons ----------------------------------------------------------------------------------------------------


def wrong_target(facts: Facts) -> str:
    """What reads the target's features fits one shape of target only."""
    mine = {"hidden_size": "hidden_size", "vocab_size": "vocab_size", "num_target_layers": "num_hidden_layers"}
    if not facts.bound or not facts.target:
        return ""
    for own, theirs in mine.items():
        if own not in facts.config and facts.kind == "eagle3":  # it does not say how many layers its target has
            continue
        if facts.target.get(theirs) is not None and facts.config.get(own) != facts.target[theirs]:
            return f"made for a target with {own} {facts.config.get(own)}; this one has {facts.target[theirs]}"
    return ""


def few_tokens(facts: Facts) -> str:
    mine, theirs = facts.config.get("vocab_size"), facts.target.get("vocab_size")
    if facts.bound or mine is None or theirs is None or mine >= theirs:
        return ""
    return f"its vocabulary of {mine} is smaller than the target's {theirs}"


def other_vocabulary(facts: Facts) -> str:
    """vLLM compares the two sizes."""
    mine, theirs = facts.config.get("vocab_size"), facts.target.get("vocab_size")
    if facts.bound or not facts.target or mine == theirs:
        return ""
    return f"its vocabulary of {mine} is not the target's {theirs}: vLLM wants them equal (a mask token was added?)"


def mask_outside(facts: Facts) -> str:
    size = facts.config.get("vocab_size")
    if facts.mask is None or size is None or facts.mask < size:
        return ""
    return f"its mask token {facts.mask} lies outside its vocabulary of {size}"


def mask_clashes(facts: Facts) -> str:
    if facts.kind != "dflash" or facts.mask_of_target in (None, facts.mask):
        return ""
    return f"its mask token {facts.mask} is not the tokenizer's own, {facts.mask_of_target}, which SGLang would use"


def head_is_whole(facts: Facts) -> str:
    reduced = facts.kind in ("dflash", "dflash2") and facts.reduced
    return "it uses the target's whole head; this drafter has a reduced vocabulary" if reduced else ""


def after_the_norm(facts: Facts) -> str:
    if facts.kind != "dflash" or not facts.last_layer:
        return ""
    return "it sees the target's last layer after the final norm, this drafter learned it before"


def causal_blocks(facts: Facts) -> str:
    causal = facts.kind == "dflash" and facts.config.get("is_causal")
    return "it lets every slot of a block see the others; this drafter's blocks are causal" if causal else ""


def vanilla_only(facts: Facts) -> str:
    if facts.kind != "dspark" or facts.config.get("markov_head_type") == "vanilla":
        return ""
    return f"it reads the vanilla Markov head only, this one is {facts.config.get('markov_head_type')}"


def three_layers(facts: Facts) -> str:
    layers = facts.config.get(LAYER_KEY) or ()
    if facts.kind != "eagle3" or len(layers) == EAGLE3_LAYERS:
        return ""
    return f"its EAGLE-3 reads {EAGLE3_LAYERS} layers of the target, this drafter {len(layers)}"


def whole_codebooks(facts: Facts) -> str:
    return head_is_whole(facts) if facts.kind == "dflash2" else ""


# --- remarks ----------------------------------------------------------------------------------------------------


def features_ignored(facts: Facts) -> str:
    return "drafts independent of the target's features (the projection is ignored)" if facts.kind == "pard2" else ""


def cpu_key_norm(facts: Facts) -> str:
    if facts.kind != "dflash" or facts.config.get("num_hidden_layers", 1) < 2:
        return ""
    return "on a CPU it uses the first drafter layer's key norm in all layers: acceptance differs slightly, output not"


def whole_vocabulary(facts: Facts) -> str:
    reduced = not facts.bound and facts.reduced
    return "drafts from the whole vocabulary, tokens included that it never learned" if reduced else ""


def needs_triton(facts: Facts) -> str:
    return "drafts on a GPU only (Triton); the code was read, not run" if facts.kind in ("dflash2", "dspark") else ""


def no_last_layer(facts: Facts) -> str:
    if facts.kind != "dflash" or not facts.last_layer:
        return ""
    return "reads the target's last layer: whether this engine can give it was not checked"


DFLASH_REASONS = (wrong_target, mask_outside)
UNWRITTEN = "paradraft writes no drafters of this kind for it"
NO_PARD = "it does not draft in parallel with a language model"
NO_DFLASH2 = "paradraft does not write DFlash 2 for it"
NO_DSPARK = "paradraft does not write DSpark for it"
NO_ASSISTANT = "it has no assistant of this kind"
CONTRACTS = (
    Contract(
        "paradraft",
        "run",
        dict.fromkeys(DRAFTERS, ""),
        {},
        (wrong_target, few_tokens, mask_outside),
    ),
    Contract(
        "vLLM 0.32",
        "run on a CPU",
        {"dflash": "", "dflash2": "", "dspark": "", "eagle3": "", "pard": "", "pard2": "", "vanilla": ""},
        {},
        (*DFLASH_REASONS, other_vocabulary, vanilla_only, whole_codebooks),
        (features_ignored, whole_vocabulary, cpu_key_norm, needs_triton),
    ),
    Contract(
        "SGLang 0.5.23",
        "read only",
        {"dflash": "", "dflash2": "", "eagle3": "", "vanilla": ""},
        {"pard": NO_PARD, "pard2": NO_PARD, "dspark": "paradraft has not checked how it reads DSpark"},
        (*DFLASH_REASONS, head_is_whole, mask_clashes, few_tokens),
    ),
    Contract(
        "llama.cpp",
        "read only",
        {"dflash": "gguf", "eagle3": "gguf", "vanilla": "vllm"},
        {"pard": NO_PARD, "pard2": NO_PARD, "dspark": NO_DSPARK, "dflash2": NO_DFLASH2},
        (*DFLASH_REASONS, causal_blocks, few_tokens, three_layers),
        (no_last_layer,),
    ),
    Contract(
        "Transformers 5.23",
        "run",
        {"dflash": "transformers", "vanilla": ""},
        {"pard": NO_PARD, "pard2": NO_PARD, "eagle3": NO_ASSISTANT, "dspark": NO_ASSISTANT, "dflash2": NO_ASSISTANT},
        (*DFLASH_REASONS, causal_blocks, head_is_whole, after_the_norm, few_tokens),
    ),
)


def verdict(contract: Contract, facts: Facts) -> Verdict:
    """Whether this engine reads it: the first reason against decides."""
    against = contract.absent.get(facts.kind, "" if facts.kind in contract.formats else UNWRITTEN)
    against = against or next((why for reason in contract.reasons if (why := reason(facts))), "")
    if against:
        return Verdict(contract.engine, False, against, "", contract.checked)
    to = contract.formats[facts.kind]
    if contract.engine.startswith("vLLM"):
        to = vllm_format(facts)
    how = f"paradraft export --to {to}" if to else "the directory as it is"
    if to == "vllm" and contract.engine == "llama.cpp":
        how += ", then llama.cpp's convert_hf_to_gguf.py"
    remarks = [text for remark in contract.remarks if (text := remark(facts))]
    return Verdict(contract.engine, True, "; ".join(remarks), how, contract.checked)


def vllm_format(facts: Facts) -> str:
    """vLLM reads our directories but for what they leave to the target."""
    if facts.kind == "dflash":
        return "speculators" if facts.reduced else ""
    if facts.kind == "dspark":
        return "vllm" if facts.reduced else ""
    if facts.kind in ("dflash2", "eagle3"):
        return ""
    return "vllm" if facts.shared else ""


def verdicts(facts: Facts) -> list[Verdict]:
    return [verdict(contract, facts) for contract in CONTRACTS]


def facts_of(drafter: str, target: str | None) -> Facts:
    """Read off both configurations; tensor names come from the headers of the safetensors files."""
    directory = drafter_directory(drafter)
    names: set[str] = set()
    for path in (*directory.glob("model*.safetensors"), *directory.glob(str(OWN_TENSORS))):
        with safe_open(path, framework="pt") as file:
            names.update(file.keys())
    described, mask = ({}, None) if target is None else describe_target(target)
    return Facts(kind_of(directory), read_config(directory), frozenset(names), described, mask)


def describe_target(name: str) -> tuple[dict[str, Any], int | None]:
    """The target's configuration and its tokenizer's mask token, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    where = found_target(name)
    config = AutoConfig.from_pretrained(where).get_text_config().to_dict()
    if not Path(where).is_dir() or any(Path(where).glob("tokenizer*")):
        return config, AutoTokenizer.from_pretrained(where).mask_token_id
    return config, None
