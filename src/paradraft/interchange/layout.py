"""What engines and formats make of one kind of drafter: the record that the kind's own module fills in.

And what its functions are given: a foreign directory to read, the facts of a drafter to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .drafter_files import Described, DrafterFiles, target_ids
from .target_side import TargetSide, needed

PLAIN: Mapping[str, tuple[Any, ...]] = {  # of config.json: what changes nothing
    "attention_bias": (None, False),
    "hidden_act": (None, "silu"),
    "quantization_config": (None,),
    "logit_scale": (None, 1),
}
ASSUMPTIONS = {
    "bonus-anchor": "slot 0 of a block is the anchor and drafts nothing",
    "last-layer-before-norm": "features of the target's last layer were taken before its final norm",
    "layer-outputs": "the layer ids in eagle_config count layer outputs from 0, as SGLang reads them",
}


@dataclass(frozen=True)
class Foreign:
    """A directory that another project wrote. `assume`: what the user decided; `side`: its target, if one was given."""

    config: Mapping[str, Any]
    where: Path
    assume: Collection[str]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    side: TargetSide | None = None

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

    def check_plain(self, plain: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse other values of these keys."""
        for key, values in plain.items():
            if self.config.get(key) not in values:
                self.refuse(f"{key} {self.config.get(key)!r} of its config.json is not supported")

    def without_the_targets(self, *names: str) -> dict[str, Tensor]:
        """Its tensors without an embedding and head by these names, which must be the target's, row by row."""
        kept = dict(self.tensors)
        for name in names:
            if name in kept:
                self.check_targets(name, kept.pop(name))
        return kept

    def check_targets(self, name: str, stored: Tensor) -> None:
        target = needed(self.side, f"{self.where} stores {name}, which must be compared with the target's own").target
        own = target.embedding.weight if name.startswith("embed") else target.model.get_output_embeddings().weight
        assert isinstance(own, Tensor)
        if name.startswith("lm_head") and "d2t" in self.tensors:
            own = own[target_ids(self.tensors["d2t"])]
        if own.shape != stored.shape or not torch.equal(own.to(stored.dtype), stored):
            raise UserError(
                f"drafter {self.where}: its {name} is not that of target {target.name}; paradraft's drafters of this "
                "kind use the target's own"
            )


Writer = Callable[[DrafterFiles, Path, TargetSide | None], list[str]]
"""Writes one of our drafters into a directory; returns what the user should know."""

Understood = Callable[[Foreign], tuple[dict[str, Any], list[str]]]
"""A foreign configuration as ours, and what the user should know; what is open is refused."""

Reader = Callable[[Foreign], tuple[dict[str, Any], dict[str, Tensor], list[str]]]
"""The same, and its tensors in between."""


@dataclass(frozen=True)
class Facts(Described):
    """A drafter and its target, as far as their configurations say. `target` is empty where none was given."""

    tensors: frozenset[str]
    target: Mapping[str, Any]
    mask_of_target: int | None = None

    @property
    def reduced(self) -> bool:
        return "d2t" in self.tensors


Condition = Callable[[Facts], bool]
Reason = Callable[[Facts], str]
"""Why not, or an empty string."""


def reduced(facts: Facts) -> bool:
    return facts.reduced


def when(condition: Condition, text: str) -> Reason:
    return lambda facts: text if condition(facts) else ""


@dataclass(frozen=True)
class Use:
    """How an engine gets drafters of one kind: exported `to` a format ("": the directory as it is), and `then` what.

    `where`: which ones must be exported. `reasons` rule one out, `remarks` say what to mind.
    """

    to: str = ""
    where: Condition = lambda facts: True
    reasons: tuple[Reason, ...] = ()
    remarks: tuple[Reason, ...] = ()
    then: str = ""


@dataclass(frozen=True)
class Layout:
    """`write`: for each `--to` how, or why not ({kind} is filled in). `engines`: for each engine how, or why not.

    `carry`: copies what a directory has beside configuration and weights. `vllm`: its part of --speculative-config.
    `sglang`: --speculative-algorithm. `mask`: the mask token that a config.json names. `names_target`: config.json has
    all sizes of the target.
    """

    read: Reader
    write: dict[str, Writer | str]
    engines: Mapping[str, Use | str]
    carry: Callable[[Path, Path], None] = lambda where, out: None
    vllm: Mapping[str, Any] = field(default_factory=dict)
    sglang: str = ""
    mask: Callable[[Mapping[str, Any]], int | None] = lambda config: None
    names_target: bool = True
