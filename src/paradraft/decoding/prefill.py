"""Reading prompts: those of similar length together, long ones in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import KeyValueSlots, Target
from .draft import Drafting

PAIRS = 2**24  # of a prompt's token and what it may see, in one forward: as much memory as masks may take
PADDING = {"cpu": 32, "cuda": 4096}  # tokens of padding that cost about as much as one more forward


def read_prompts(
    target: Target, cache: KeyValueSlots, drafting: Drafting | None, prompts: Sequence[Sequence[int]], slots: list[int]
) -> Tensor:
    """Logits [rows, 1, V] behind the prompts, each in its slot; the drafter observes them too."""
    found: dict[int, Tensor] = {}
    for rows in alike([len(prompt) for prompt in prompts], PADDING.get(target.device.type, 0)):
        width = max(1, PAIRS // (len(rows) * len(prompts[rows[0]])))
        for start in range(0, len(prompts[rows[0]]), width):
            rows = [row for row in rows if len(prompts[row]) > start]
            pieces, here = [prompts[row][start : start + width] for row in rows], [slots[row] for row in rows]
            found |= dict(zip(rows, read(target, cache, drafting, pieces, here), strict=True))
    return torch.stack([found[row] for row in range(len(prompts))])


def read(
    target: Target, cache: KeyValueSlots, drafting: Drafting | None, texts: Sequence[Sequence[int]], slots: list[int]
) -> Tensor:
    """Logits [rows, 1, V] behind texts that go on from what stands in the slots, padded on the right."""
    counts, device = torch.tensor([len(text) for text in texts]), target.device
    longest = int(counts.max())
    tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    layers = () if drafting is None else drafting.drafter.feature_layers
    output = target.forward(tokens, cache, layers, slots, logits_at=(counts - 1).to(device))
    cache.commit(counts)
    if drafting is not None:
        drafting.drafter.observe(drafting.state, slots, output.features, tokens, counts)
    return output.logits


def alike(lengths: Sequence[int], padding: int) -> list[list[int]]:
    """Places of the lengths in groups, longest first: padded to its longest, a group holds at most so much padding."""
    groups: list[list[int]] = []
    missing = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if groups:
            missing += lengths[groups[-1][0]] - lengths[place]
        if not groups or missing > padding:
            groups.append([])
            missing = 0
        groups[-1].append(place)
    return groups
