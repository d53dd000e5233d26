"""Bucketed batches in an order that depends on the seed and the step alone, so that a run resumes exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from ..drafters import Batch
from ..drafters.grid import PADDING
from ..errors import UserError
from .render import Rendered

BUCKET = 32  # batches that are sorted by length together


def cut(rendered: Rendered, max_length: int) -> Rendered:
    return Rendered(rendered.input_ids[:max_length], rendered.loss_mask[:max_length])


def check_supervision(examples: Sequence[Rendered], source: str) -> list[Rendered]:
    """Examples with at least two supervised tokens in a row (an anchor and its label); none at all is an error."""
    usable = [e for e in examples if any(a and b for a, b in zip(e.loss_mask, e.loss_mask[1:], strict=False))]
    if not usable:
        raise UserError(
            f"the loss mask is zero everywhere: no token of {source} was written by the assistant within "
            "data.max_length; raise it, or check the data and the chat template"
        )
    return usable


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of every batch of an epoch: shuffled, sorted by length within buckets, the batches shuffled again.

    The last, incomplete batch of the epoch is left out unless it is the only one.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    bucket = batch_size * BUCKET
    whole = max(batch_size, len(order) // batch_size * batch_size)
    for start in range(0, min(whole, len(order)), bucket):
        part = sorted(order[:whole][start : start + bucket], key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    rng.shuffle(batches)
    return batches


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return max(1, examples // batch_size)


def batches_from(lengths: Sequence[int], batch_size: int, seed: int, step: int) -> Iterator[list[int]]:
    """The endless sequence of batches from optimiser step `step` (0-based) on."""
    per_epoch = steps_per_epoch(len(lengths), batch_size)
    epoch, skip = divmod(step, per_epoch)
    while True:
        yield from epoch_batches(lengths, batch_size, seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def collate(examples: Sequence[Rendered]) -> Batch:
    """Pad on the right to the longest; one document a row."""
    shape = (len(examples), max(len(e.input_ids) for e in examples))
    input_ids = torch.zeros(shape, dtype=torch.long)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    document_ids = torch.full(shape, PADDING)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        loss_mask[row, :length] = torch.tensor(example.loss_mask)
        document_ids[row, :length] = 0
    return Batch(input_ids, loss_mask, document_ids)
