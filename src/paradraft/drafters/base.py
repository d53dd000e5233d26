"""The contract of a drafter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Section
from ..errors import UserError
from ..models import KeyValueSlots, Target
from ..models.cpu_kernels import pack_for_decoding, soft_capped
from .grid import Batch, Grid
from .state import DraftState
from .vocabulary import DraftVocabulary, FrozenLinear, head_rows


@dataclass(frozen=True)
class Proposal:
    """Drafted tokens [rows, K], and the probabilities [rows, K, V] they were sampled from (None: without chance).

    From a sampler that builds trees, their nodes [rows, N]. lengths [rows]: how many tokens of a chain are worth
    verifying, None: all. Whether token j counts may depend on the tokens before j, never on j or later ones; otherwise
    what is kept would not have the target's distribution.
    """

    tokens: Tensor
    probabilities: Tensor | None
    lengths: Tensor | None = None

    @classmethod
    def joined(cls, steps: Sequence[Proposal], lengths: Tensor | None = None) -> Proposal:
        """One proposal of those that drafted its tokens one after the other."""
        sampled = [step.probabilities for step in steps if step.probabilities is not None]
        tokens = torch.cat([step.tokens for step in steps], dim=1)
        return cls(tokens, torch.cat(sampled, dim=1) if sampled else None, lengths)


Sampler = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Draft logits [rows, K, V_d] -> draft tokens [rows, K] and the distributions [rows, K, V_d] they came from.

For a `parallel` drafter it may also give the nodes [rows, N] of a tree: all steps come at once, tokens are only mapped.
"""


Grow = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Draft logits [rows, P, V_d] behind each of P nodes -> the next nodes' draft tokens and their parents, [rows, W].

A BranchingDrafter calls it once for each step.
"""


class DrafterSection(Section):
    """The configuration fields that every kind of drafter has; each kind adds its own and sets `kind`."""

    kind: str
    layers: int | None = Field(None, ge=1, description="decoder layers; null: 5 of a fresh drafter, else init_from's")
    init_from: str | None = Field(None, description="start from the weights of this drafter")
    vocabulary: int | None = Field(
        None, ge=2, description="propose only this many of the most frequent tokens of the training text; null: all"
    )

    @property
    def needs_overlap(self) -> bool:
        """Whether the drafter's own loss reads the overlaps sum_v min(p, q) with the target's distributions."""
        return False


FRESH_LAYERS = 5


def check_start(section: DrafterSection, found: Mapping[str, object]) -> None:
    """UserError if the section asks for something else than `found`, what the drafter has that training starts from."""
    for name, has in found.items():
        asked = getattr(section, name)
        if asked not in (None, "auto", has):
            raise UserError(f"drafter.{name} is {asked}, but {section.init_from} has {has}; set it to that value")


class Drafter(nn.Module, ABC):
    """A draft model bound to one target.

    `section`: its part of the configuration. `feature_layers`: 0-based target layers whose outputs it reads (empty:
    none). `max_draft`: the most tokens it was trained to draft in a round. `modes`: how it can draft, with the target's
    features (dependent) or without (independent), the one it prefers first. `parallel`: it drafts all tokens in one
    forward. `vocabulary`: the tokens it may propose, None: all of the target's; its logits are over these.

    `bound`: it has the target's width and embedding, and its directory names the target's sizes. `usual_length`:
    `max_draft` of a directory that does not say.

    `list_names`: parts of the names of its matrices that are lists of vectors, one for each token.

    Training uses `grid` and `forward`, decoding `start`, `observe`, `propose`; a test ties the two: logits at (anchor,
    step) equal the logits at decoding after the same prefix.
    """

    kind: str
    section: type[DrafterSection]
    feature_layers: tuple[int, ...]
    max_draft: int
    modes: tuple[str, ...] = ("dependent",)
    parallel: bool = True
    list_names: tuple[str, ...] = ("embed", "lm_head")
    keeps_vocabulary: bool = False
    bound: bool = False
    usual_length: int = 4

    @property
    def mode(self) -> str:
        return self._mode or self.modes[0]

    def set_mode(self, mode: str) -> None:
        """Draft in this mode from the next `start` on."""
        if mode not in self.modes:
            raise UserError(f"this drafter works in mode {' or '.join(self.modes)}, not {mode!r}")
        self._mode = mode

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.feature_layers = ()
        self.vocabulary: DraftVocabulary | None = None
        self.head_rows: FrozenLinear | None = None  # of the target's head, with a reduced vocabulary
        self._mode = ""

    def proposal(self, logits: Tensor, sampler: Sampler) -> Proposal:
        """Sample from draft logits [rows, K, V_d]; tokens and probabilities in the target's ids."""
        tokens, probabilities = sampler(logits)
        if self.vocabulary is None:
            return Proposal(tokens, probabilities)
        whole = None if probabilities is None else self.vocabulary.over_target(probabilities)
        return Proposal(self.vocabulary.ids[tokens], whole)

    def restrict(self, vocabulary: DraftVocabulary) -> None:
        """Propose only these tokens from now on."""
        self.vocabulary = vocabulary.to(self.target.device)
        self.head_rows = head_rows(self.target.output_embedding, self.vocabulary.ids)

    def unrestrict(self) -> None:
        """Propose any token again; not for a drafter that `keeps_vocabulary`."""
        self.vocabulary = self.head_rows = None

    @abstractmethod
    def grid(self, batch: Batch, anchors: int, seeds: Sequence[int]) -> Grid:
        """The training queries of a batch, at most `anchors` a row, drawn with one seed a row."""

    @abstractmethod
    def forward(self, grid: Grid, features: Tensor) -> Tensor:
        """Hidden states [N, K, H] ready for the head; features [B, S, layers * H_target]."""

    def own_loss(self, hidden: Tensor, logits: Tensor, labels: Tensor, overlap: Tensor | None) -> Tensor | None:
        """What the drafter adds to the token loss, [M], or None; arguments as in `objectives.OwnLoss`."""
        return None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states [..., H] by the target's head: [..., V], or [..., V_d] with a reduced vocabulary."""
        hidden = hidden.to(self.target.dtype)
        if self.head_rows is None:
            return self.target.head(hidden)
        return soft_capped(self.head_rows(hidden), self.target.softcap)

    def prepare_decoding(self) -> None:
        """Draft the fast way from now on; the weights are final and stay where they are."""
        pack_for_decoding(self)

    def start(self, rows: int, capacity: int) -> DraftState:
        """An empty state of `rows` slots, each for a sequence of at most `capacity` tokens, draft included.

        Here one for a drafter that remembers nothing of a text.
        """
        nothing = torch.empty(rows, 0)
        return DraftState(KeyValueSlots(0, rows, capacity), nothing[..., None], nothing)

    def observe(
        self, state: DraftState, slots: Sequence[int], features: Tensor, tokens: Tensor, counts: Tensor
    ) -> None:
        """Committed tokens [rows, T] of `slots` and their features [rows, T, F].

        The first `counts` [rows] (on the host) of each are kept.
        """

    @abstractmethod
    def propose(
        self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, sampler: Sampler
    ) -> Proposal:
        """Draft `steps` tokens for `slots` behind their newest tokens `anchors` [rows], which have no features yet."""

    @abstractmethod
    def save_pretrained(self, directory: Path) -> None:
        """Write the directory that serving engines read."""

    @classmethod
    @abstractmethod
    def reads(cls, config: dict[str, Any]) -> bool:
        """Whether a directory with this config.json holds a drafter of this kind."""

    @classmethod
    def trained_length(cls, config: Mapping[str, Any]) -> int:
        """`max_draft` of a directory with this config.json; here as drafters have it that draft token by token."""
        return int((config.get("paradraft") or {}).get("draft_length", cls.usual_length))

    @classmethod
    @abstractmethod
    def create(cls, section: Any, target: Target) -> Drafter:
        """An untrained drafter in float32 as a run's configuration describes it."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, directory: Path, target: Target, dtype: torch.dtype | None = None) -> Drafter:
        """Read it back on the target's device, in `dtype` or the target's; refuse a target it was not made for."""


class BranchingDrafter(Drafter):
    """A drafter that drafts step by step, and trees too."""

    parallel = False

    @abstractmethod
    def propose_tree(self, state: DraftState, slots: Sequence[int], anchors: Tensor, steps: int, grow: Grow) -> None:
        """Let `grow` choose the nodes of trees behind `anchors` [rows], `steps` deep."""
