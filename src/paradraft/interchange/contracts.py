"""Which engine reads a drafter, and why another does not: each engine's contract as data and small functions.

A contract is checked on config.json of both sides; no weights are read. `checked` says whether this project has run the
engine or only read its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..drafters import kind_of
from ..drafters.directory import read_config
from ..errors import UserError, first_line
from ..models.names import drafter_directory, found_target
from . import LAYOUTS
from .drafter_files import tensor_names
from .layout import Facts, Reason, Use


@dataclass(frozen=True)
class Contract:
    """One engine: what rules out a drafter of any kind. What it makes of one kind is in that kind's layout."""

    engine: str
    checked: str
    reasons: tuple[Reason, ...]


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
    layout = LAYOUTS.get(facts.kind)
    if not facts.bound or not facts.target:
        return ""
    for own, theirs in mine.items():
        if own not in facts.config and layout is not None and not layout.names_target:
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


def scaled_embedding(facts: Facts) -> str:
    """A block of DFlash is made of embeddings; Gemma multiplies them by the square root of its width."""
    scaled = str(facts.target.get("model_type", "")).startswith("gemma")
    if not scaled or facts.kind not in ("dflash", "dflash2", "dspark"):
        return ""
    return "the target multiplies its embeddings by the square root of its width, and this engine drafts without that"


def mask_outside(facts: Facts) -> str:
    layout, size = LAYOUTS.get(facts.kind), facts.config.get("vocab_size")
    mask = None if layout is None else layout.mask(facts.config)
    if mask is None or size is None or mask < size:
        return ""
    return f"its mask token {mask} lies outside its vocabulary of {size}"


UNWRITTEN = "paradraft writes no drafters of this kind for it"
COMMON = (wrong_target, mask_outside)
CONTRACTS = {
    "paradraft": Contract("paradraft", "run", (wrong_target, few_tokens, mask_outside)),
    "vllm": Contract("vLLM 0.32", "run on a CPU", (*COMMON, other_vocabulary, scaled_embedding)),
    "sglang": Contract("SGLang 0.5.23", "read only", (*COMMON, few_tokens)),
    "llama.cpp": Contract("llama.cpp", "read only", (*COMMON, few_tokens, scaled_embedding)),
    "transformers": Contract("Transformers 5.23", "run", (*COMMON, few_tokens)),
}


def use_of(engine: str, kind: str) -> Use | str:
    """How this engine is given drafters of this kind, or why it is not."""
    if engine == "paradraft":
        return Use()
    return LAYOUTS[kind].engines.get(engine, UNWRITTEN) if kind in LAYOUTS else UNWRITTEN


def format_for(engine: str, facts: Facts) -> str:
    """The format that it must be exported to for this engine; "": none."""
    use = use_of(engine, facts.kind)
    return use.to if isinstance(use, Use) and use.where(facts) else ""


def verdict(engine: str, facts: Facts) -> Verdict:
    """Whether this engine reads it: the first reason against decides."""
    contract, use = CONTRACTS[engine], use_of(engine, facts.kind)
    if isinstance(use, str):
        return Verdict(contract.engine, False, use, "", contract.checked)
    against = next((why for reason in (*contract.reasons, *use.reasons) if (why := reason(facts))), "")
    if against:
        return Verdict(contract.engine, False, against, "", contract.checked)
    to = format_for(engine, facts)
    how = f"paradraft export --to {to}" if to else "the directory as it is"
    remarks = [text for remark in use.remarks if (text := remark(facts))]
    return Verdict(contract.engine, True, "; ".join(remarks), how + use.then, contract.checked)


def verdicts(facts: Facts) -> list[Verdict]:
    return [verdict(engine, facts) for engine in CONTRACTS]


def facts_of(drafter: str, target: str | None, trust_remote_code: bool = False) -> Facts:
    """Read off both configurations; no weights."""
    directory = drafter_directory(drafter)
    described, mask = ({}, None) if target is None else describe_target(target, trust_remote_code)
    return Facts(kind_of(directory), read_config(directory), tensor_names(directory), described, mask)


def describe_target(name: str, trust_remote_code: bool = False) -> tuple[dict[str, Any], int | None]:
    """The target's configuration and its tokenizer's mask token, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    where = found_target(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code).get_text_config().to_dict()
        if not Path(where).is_dir() or any(Path(where).glob("tokenizer*")):
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
            return config, tokenizer.mask_token_id
    except Exception as error:  # damaged files surface as errors of many libraries
        raise UserError(f"target {name} cannot be read: {first_line(error)}") from None
    return config, None
