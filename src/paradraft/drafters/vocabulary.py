"""Reduced draft vocabularies: a drafter that may propose only the most frequent tokens of its training text.

Its head has one row for each of these tokens, taken from the target's head (or its own), in ascending order of the ids.
Decoding stays lossless, because the draft distribution is zero at all other tokens. The vocabulary is saved as engines
read it: `d2t` [V_d], the target's id minus the draft's, and `t2d` [V], true for the tokens inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..errors import UserError

VOCABULARY_MAPS: tuple[str, ...] = ("d2t", "t2d")  # their names in files


class DraftVocabulary(nn.Module):
    """ids [V_d]: the target's ids of the tokens, ascending. to_draft [V]: the draft id of each target id, -1: none."""

    ids: Tensor
    to_draft: Tensor

    def __init__(self, ids: Tensor, vocabulary_size: int) -> None:
        super().__init__()
        to_draft = torch.full((vocabulary_size,), -1, dtype=torch.long, device=ids.device)
        to_draft[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("to_draft", to_draft, persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def over_target(self, probabilities: Tensor) -> Tensor:
        """Probabilities [..., V_d] over the target's vocabulary [..., V], zero outside."""
        whole = probabilities.new_zeros(*probabilities.shape[:-1], len(self.to_draft))
        whole[..., self.ids] = probabilities
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """d2t and t2d, as they are saved."""
        draft_ids = torch.arange(len(self.ids), device=self.ids.device)
        maps = {"d2t": self.ids - draft_ids, "t2d": self.to_draft >= 0}
        return {name: tensor.cpu().contiguous() for name, tensor in maps.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], vocabulary_size: int, where: str) -> DraftVocabulary:
        """Read from saved maps; `where` names the drafter in errors."""
        d2t, t2d = tensors.get("d2t"), tensors.get("t2d")
        if d2t is None or d2t.ndim != 1 or d2t.is_floating_point():
            raise UserError(f"{where}: its reduced draft vocabulary needs d2t, one whole number for each draft token")
        ids = d2t.long() + torch.arange(len(d2t), device=d2t.device)
        inside = torch.zeros(vocabulary_size, dtype=torch.bool, device=d2t.device)
        if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= vocabulary_size or bool((ids.diff() <= 0).any()):
            raise UserError(f"{where}: its d2t does not give ascending ids of a vocabulary of {vocabulary_size}")
        inside[ids] = True
        if t2d is not None and not torch.equal(t2d.bool(), inside):
            raise UserError(f"{where}: its t2d and d2t name different tokens; the checkpoint is damaged")
        return cls(ids, vocabulary_size)


class FrozenLinear(nn.Linear):
    """Some rows of the target's head; they are neither trained nor saved, and keep the target's type."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight.detach().clone(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().clone(), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def head_rows(head: nn.Module, ids: Tensor) -> FrozenLinear:
    """The rows `ids` of a model's output embeddings."""
    weight, bias = head.weight, getattr(head, "bias", None)
    assert isinstance(weight, Tensor)
    return FrozenLinear(weight[ids], bias[ids] if isinstance(bias, Tensor) else None)


@dataclass(frozen=True)
class Chosen:
    """The ids of a reduced vocabulary, and the share of the text's learned tokens that they cover."""

    ids: Tensor
    coverage: float


def most_frequent(learned: Iterable[Tensor], size: int, vocabulary_size: int, always: Iterable[int]) -> Chosen:
    """The `size` most frequent of the learned tokens [n] of each text, and `always` (stop tokens); ties by lower id."""
    if not 0 < size < vocabulary_size:
        raise UserError(
            f"drafter.vocabulary is {size}, but the target has {vocabulary_size} tokens; give a smaller number, or null"
        )
    counts = torch.zeros(vocabulary_size, dtype=torch.long)
    for ids in learned:
        counts += torch.bincount(ids, minlength=vocabulary_size)
    ranked = counts.clone()
    ranked[list(always)] = counts.max() + 1
    ids = ranked.argsort(descending=True, stable=True)[:size].sort().values
    return Chosen(ids, float(counts[ids].sum()) / max(1, int(counts.sum())))
