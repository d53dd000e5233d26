"""Draft logits through our own loader: the same weights must draft the same, whatever file they came from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..drafters import DRAFTERS, Drafter, kind_of
from ..errors import UserError
from ..models import Target

CONTEXT = 12


def draft_logits(drafter: Drafter, target: Target, steps: int) -> Tensor:
    """Logits [1, K, vocabulary] behind a random context with random features, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(target.vocabulary_size, (1, CONTEXT + 1), generator=generator)
    width = len(drafter.feature_layers) * target.hidden_size
    features = torch.randn(1, CONTEXT, width, generator=generator).to(target.dtype)
    seen: list[Tensor] = []

    def keep(logits: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.append(logits)
        return logits.argmax(-1), None

    with torch.inference_mode():
        state = drafter.start(1, CONTEXT + steps + 2)
        drafter.observe(state, [0], features, tokens[:, :-1], torch.tensor([CONTEXT]))
        drafter.propose(state, [0], tokens[:, -1], steps, keep)
    return torch.cat(seen, dim=1)


def compare_logits(ours: Path, other: Path, target: Target, mode: str | None = None) -> None:
    """UserError unless both directories give the same draft logits, bit for bit. `mode` is set on both."""
    drafters = [DRAFTERS[kind_of(directory)].from_pretrained(directory, target) for directory in (ours, other)]
    for drafter in drafters:
        if mode in drafter.modes and mode is not None:
            drafter.set_mode(mode)
    steps, vocabulary = min(drafter.max_draft for drafter in drafters), drafters[0].vocabulary
    whole = vocabulary is not None and drafters[1].vocabulary is None
    if whole and not drafters[0].parallel:
        steps = 1  # what it drafts next depends on which tokens it could have drafted
    first, second = (draft_logits(drafter, target, steps) for drafter in drafters)
    if whole and vocabulary is not None:  # a head of other size sums in another order
        second = second[..., vocabulary.ids]
        same = torch.allclose(first, second, rtol=1e-4, atol=1e-5)
    else:
        same = torch.equal(first, second)
    if not same:
        raise UserError(
            f"{other} drafts differently from {ours} (logits, by up to {float((first - second).abs().max()):.3g}); "
            "this is a fault of paradraft, please report it with both config.json files"
        )
