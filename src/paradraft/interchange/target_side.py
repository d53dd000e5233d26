"""What an exported file holds of the target: its name, configuration, tokenizer, and rows of its embedding and head."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..models import Target
from ..models.names import found_target, smollm2_file
from .drafter_files import DrafterFiles


class TargetSide:
    """A target by name; weights are read at the first use."""

    def __init__(self, name: str, trust_remote_code: bool = False) -> None:
        self.name, self.trust_remote_code = name, trust_remote_code

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that the name stands for, if it does."""
        if self.name == "smollm2":
            return smollm2_file()
        return Path(self.name) if self.name.endswith(".gguf") else None

    @cached_property
    def location(self) -> str:
        """What an engine is given as the target: a directory (of a GGUF file its dequantised copy) or an id."""
        return found_target(self.name)

    @cached_property
    def target(self) -> Target:
        """The whole model on the CPU, in float32."""
        return Target.load(self.name, dtype="float32", device="cpu", trust_remote_code=self.trust_remote_code)

    @property
    def architectures(self) -> list[str]:
        """As its config.json names them."""
        return list(self.target.model.config.architectures or [type(self.target.model).__name__])

    @property
    def tied(self) -> bool:
        """Whether its embedding and head are one matrix."""
        return bool(self.target.config.tie_word_embeddings)

    def head_rows(self, ids: Tensor | None, like: Tensor) -> Tensor:
        """A copy of rows [V_d, H] of the head, or of all, in the type of `like` if that loses nothing, else float32."""
        weight = self.target.output_embedding.weight
        assert isinstance(weight, Tensor)
        return smallest(weight.detach() if ids is None else weight.detach()[ids], like)

    def embedding(self, like: Tensor) -> Tensor:
        """A copy of the embedding [V, H], in the type of `like` if that loses nothing, else float32."""
        return smallest(self.target.embedding.weight.detach(), like)

    def tokenizer_json(self) -> dict[str, Any]:
        """The tokenizer of a directory, as the tokenizers library saves it."""
        path = Path(self.location) / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"target {self.name} has no tokenizer.json to write into the GGUF file; give the target as a directory "
                "that has one, or as a GGUF file (--target FILE.gguf), whose tokenizer is copied"
            )
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def smallest(matrix: Tensor, like: Tensor) -> Tensor:
    """A float32 matrix in the type of `like` if that loses nothing; always a copy."""
    small = matrix.to(like.dtype)
    return small.clone() if bool((small.float() == matrix).all()) else matrix.clone()


def needed(side: TargetSide | None, why: str) -> TargetSide:
    """The target, or a sentence that says what it is needed for."""
    if side is None:
        raise UserError(f"--target is needed here: {why}")
    return side


def reduced_head(source: DrafterFiles, side: TargetSide | None) -> dict[str, Tensor]:
    """What a reduced draft vocabulary needs where the head is the target's: d2t and those rows of it."""
    target = needed(side, "the rows of its head that a reduced draft vocabulary uses are written out")
    rows = target.head_rows(source.draft_ids(), source.weights["fc.weight"])
    return {"d2t": source.own["d2t"].long(), "lm_head.weight": rows}
