"""Draft logits through our own loader: the same weights must draft the same, whatever file they came from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..drafters import DRAFTERS, Drafter, kind_of
from ..errors import UserError
from ..models import Target

CONTEXT = 12
ROUNDING = 2e-5  # of the largest logit


def draft_logits(drafter: Drafter, target: Target, steps: int, draft: Tensor | None = None) -> Tensor:
    """Logits [1, K, vocabulary] behind a random context with random features, the same ones at every call.

    `draft` [1, K]: tokens to draft, in the drafter's ids; None: the likeliest.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(target.vocabulary_size, (1, CONTEXT + 1), generator=generator)
    width = len(drafter.feature_layers) * target.hidden_size
    features = torch.randn(1, CONTEXT, width, generator=generator).to(target.dtype)
    seen: list[Tensor] = []

    def keep(logits: Tensor) -> tuple[Tensor, Tensor | None]:
        done = sum(part.shape[1] for part in seen)
        seen.append(logits)
        return logits.argmax(-1) if draft is None else draft[:, done : done + logits.shape[1]], None

    with torch.inference_mode():
        state = drafter.start(1, CONTEXT + steps + 2)
        drafter.observe(state, [0], features, tokens[:, :-1], torch.tensor([CONTEXT]))
        drafter.propose(state, [0], tokens[:, -1], steps, keep)
    return torch.cat(seen, dim=1)


def compare_logits(ours: Path, other: Path, target: Target, mode: str | None = None) -> None:
    """UserError unless both directories give the same logits for one draft. `mode` is set on both.

    The same is bit for bit: a wrong epsilon changes no more than a few bits. Only where one has the target's head and
    the other a copy of it, or a part of it, are the products summed in different orders (a target that is ready to
    decode keeps columns). In float32 that was up to 4e-6 of the largest logit, at a width of 8,192; five times that
    is let pass, and one weight of a small model that is off by a hundredth is not.
    """
    drafters = [DRAFTERS[kind_of(directory)].from_pretrained(directory, target) for directory in (ours, other)]
    for drafter in drafters:
        if mode in drafter.modes and mode is not None:
            drafter.set_mode(mode)
    steps, vocabulary = min(drafter.max_draft for drafter in drafters), drafters[0].vocabulary
    first = draft_logits(drafters[0], target, steps)
    draft, whole = first.argmax(-1), vocabulary is not None and drafters[1].vocabulary is None
    if whole and vocabulary is not None:
        second = draft_logits(drafters[1], target, steps, vocabulary.ids[draft])[..., vocabulary.ids]
    else:
        second = draft_logits(drafters[1], target, steps, draft)
    targets_head = {getattr(drafter, "shares_embedding", False) for drafter in drafters}
    largest = min(float(logits.abs().max()) for logits in (first, second))
    allowed = ROUNDING * largest if whole or len(targets_head) == 2 else 0.0
    difference = (first - second).abs()
    if not bool((difference <= allowed).all()):
        raise UserError(
            f"{other} drafts differently from {ours} (logits, by up to {float(difference.max()):.3g}); "
            "this is a fault of paradraft, please report it with both config.json files"
        )
